// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// Secret is an image pull secret, or why it could not be had.
type Secret struct {
	Name string // "pull secret namespace/name"
	Data []byte // the docker configuration in it
	Err  error
}

// secretsTimeout is how long all Secrets of one pull may take: the pull may do
// without.
const secretsTimeout = 5 * time.Second

// Secrets gets Secrets by their names, each anew. One that can not be had is in
// the answer with the reason.
func (s *Source) Secrets(ctx context.Context, namespace string, names []string) []Secret {
	ctx, cancel := context.WithTimeout(ctx, secretsTimeout)
	defer cancel()
	out := make([]Secret, 0, len(names))
	for _, name := range names {
		data, err := s.secret(ctx, namespace, name)
		out = append(out, Secret{Name: fmt.Sprintf("pull secret %s/%s", namespace, name), Data: data, Err: err})
	}
	return out
}

func (s *Source) secret(ctx context.Context, namespace, name string) ([]byte, error) {
	if name == "" || strings.ContainsAny(name+namespace, "/%") || name == "." || name == ".." {
		return nil, fmt.Errorf("%q is no name of a Secret", name)
	}
	c, err := s.server()
	if err != nil {
		return nil, err
	}
	// Read as bytes: all of core/v1 for two fields would be a large part of kmmd.
	data, err := c.REST().Get().AbsPath("/api/v1/namespaces", namespace, "secrets", name).Do(ctx).Raw()
	switch {
	case apierrors.IsNotFound(err):
		return nil, errors.New("not found: create it, or take it out of the Module and its ServiceAccount")
	case apierrors.IsForbidden(err):
		return nil, errors.New("kmmd may not read it: kmm-watcher allows that for the Secrets of a node's Modules; is it running?")
	case err != nil:
		return nil, fmt.Errorf("the API server can not be asked: %w", err)
	}
	var secret struct {
		Type string            `json:"type"`
		Data map[string][]byte `json:"data"`
	}
	if err := json.Unmarshal(data, &secret); err != nil {
		return nil, fmt.Errorf("read: %w", err)
	}
	for _, key := range []string{".dockerconfigjson", ".dockercfg"} {
		if b, ok := secret.Data[key]; ok {
			return b, nil
		}
	}
	return nil, fmt.Errorf("it is of type %q and has no .dockerconfigjson: a kubernetes.io/dockerconfigjson is needed", secret.Type)
}
