// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"github.com/stretchr/testify/assert"
)

// signed: a Job signs the image of a Module and pushes it, in a namespace where
// pods have to be of the most restricted kind. The node gets the signed one.
func (w *world) signed() {
	w.step("An image is signed in the cluster")
	w.kubectl("create", "namespace", "signed")
	w.kubectl("label", "namespace", "signed", "pod-security.kubernetes.io/enforce=restricted")
	for secret, file := range map[string]string{"signing-key": "key=.lab/boot/keys/trusted.key", "signing-cert": "cert=.lab/boot/keys/trusted.crt"} {
		w.ask("create", "secret", "generic", secret, "-n", "signed", "--from-file="+file)
	}
	const manifest = "test/e2e/testdata/signed.yaml"
	w.kubectl("apply", "-f", manifest)
	w.ask("wait", "--for=condition=Ready", "--timeout=15m", "-n", "signed", "module/base")
	w.kubectl("get", "jobs,pods", "-n", "signed", "-o", "wide")
	w.kubectl("get", "modules", "-n", "signed")
	assert.Equal(w.t, "True", w.ask("get", "jobs", "-n", "signed", "-o", `jsonpath={.items[*].status.conditions[?(@.type=="Complete")].status}`), "one Job did it")
	assert.Equal(w.t, buildOf(w.t, w.releases[0], "kmm_base"), w.one.Run("od -An -v -tx1 -j16 /sys/module/kmm_base/notes/.note.gnu.build-id | tr -d ' \n'"))
	const end = "tail -c 28 /var/lib/kmmd/images/trees/*/lib/modules/*/kmm_base.ko"
	assert.Contains(w.t, w.one.Run(end), "~Module signature appended~")
	w.print("# worker-1: %s: %s", end, w.one.Run(end))
	w.ask("delete", "--timeout=15m", "-f", manifest)
	w.ask("delete", "--timeout=15m", "namespace", "signed")
	assert.Equal(w.t, "gone", w.one.Run("test -e /sys/module/kmm_base || echo gone"))
}
