// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"errors"
	"fmt"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Access is a Config.Connect: by a kubeconfig, or, when that is "", by the
// ServiceAccount of the pod we run in. Tokens and certificates that are named by
// file are read again when they change.
func Access(kubeconfig, userAgent string) func() (*rest.Config, error) {
	return func() (*rest.Config, error) { return access(kubeconfig, userAgent) }
}

func access(kubeconfig, userAgent string) (*rest.Config, error) {
	cfg, err := load(kubeconfig)
	if err != nil {
		return nil, err
	}
	if cfg.ExecProvider != nil || cfg.AuthProvider != nil {
		return nil, fmt.Errorf("kubeconfig %s: it names a program to be run for credentials, and kmmd runs none: give one with a certificate or a token file", kubeconfig)
	}
	cfg.UserAgent = userAgent
	return cfg, nil
}

func load(kubeconfig string) (*rest.Config, error) {
	if kubeconfig != "" {
		return clientcmd.BuildConfigFromFlags("", kubeconfig)
	}
	cfg, err := rest.InClusterConfig()
	if errors.Is(err, rest.ErrNotInCluster) {
		return nil, errors.New("this is no pod with a ServiceAccount: name a kubeconfig in the configuration ([cluster] kubeconfig)")
	}
	return cfg, err
}
