// SPDX-License-Identifier: Apache-2.0

package main

// Variables of the environment that kmmd reads. Its libraries also read HTTPS_PROXY,
// HTTP_PROXY and NO_PROXY (registries and API server) and TMPDIR (files of kmmd plan
// and kmmd image check); systemd sets NOTIFY_SOCKET and WATCHDOG_USEC.
const (
	// clusterVariable is true or false. True enables the cluster for every command
	// that is run in a pod, also by kubectl exec: one that left the cluster's Modules
	// out would say that they are to be unloaded.
	clusterVariable = "KMMD_CLUSTER"
	// nodeNameVariable is the node's name in the cluster, unless node_name is in the
	// configuration.
	nodeNameVariable = "NODE_NAME"
	// passphraseVariable is the passphrase of the key that kmmd sign is given, unless
	// there is --passphrase-file. The kernel's sign-file reads the same one.
	passphraseVariable = "KBUILD_SIGN_PIN"
	// dockerVariable is the directory of the config.json that has the logins of
	// whoever runs kmmd sign image or kmmd image copy without --authfile; else it is
	// ~/.docker.
	dockerVariable = "DOCKER_CONFIG"
	// runtimeVariable is the directory where those of podman are, in
	// containers/auth.json.
	runtimeVariable = "XDG_RUNTIME_DIR"
)
