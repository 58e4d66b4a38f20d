// SPDX-License-Identifier: Apache-2.0

package watcher

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
	"github.com/kmm-node/kmmd/pkg/build"
)

// ImageRequest is a question to a registry.
type ImageRequest struct {
	Image   string
	TLS     v1beta1.TLSOptions
	Secrets []ImageSecret
}

// ImageSecret is a pull secret, or why it could not be had.
type ImageSecret struct {
	Name string // for a person
	Data []byte // .dockerconfigjson, or the older .dockercfg
	Err  error
}

// pullSecretsOf are the Secrets that a Module's images are pulled with; pkg/build
// keeps the one that pushes from who must not see it.
func (w *Watcher) pullSecretsOf(m *v1beta1.Module) []string {
	return PullSecretNames(m, func(namespace, name string) (*corev1.ServiceAccount, bool) {
		return get[*corev1.ServiceAccount](w.accounts, key(namespace, name))
	})
}

// lookup asks the registry with all the credentials there are.
func (w *Watcher) lookup(ctx context.Context, m *v1beta1.Module, r *build.Request) (string, error) {
	q := ImageRequest{Image: r.Image, TLS: r.RegistryTLS}
	for _, name := range r.PullSecrets {
		s := ImageSecret{Name: "Secret " + key(m.Namespace, name)}
		if secret, err := w.cfg.Kube.CoreV1().Secrets(m.Namespace).Get(ctx, name, metav1.GetOptions{}); err != nil {
			s.Err = err
		} else if s.Data = secret.Data[corev1.DockerConfigJsonKey]; s.Data == nil {
			s.Data = secret.Data[corev1.DockerConfigKey]
		}
		q.Secrets = append(q.Secrets, s)
	}
	digest, err := w.cfg.Images.Lookup(ctx, q)
	w.cfg.Metrics.asked(digest, err)
	return digest, err
}
