// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
)

// TestSecrets: a pull secret that is missing is named; one that comes is used;
// one that was changed is read anew; nobody may read it when no Module names it.
func TestSecrets(t *testing.T) {
	w := begin(t, "secrets")
	a := w.node("a")
	image, next := w.Image("one", "mod"), w.Image("two", "mod")
	w.Protect("first")
	repo := []string{"imageRepoSecret: {name: pull}"}
	w.apply(document{name: "m", image: image, spec: repo})
	s := w.waitStatus(a, "m", "Failed/ImageUnauthorized")
	assert.Contains(t, s.Message, "pull secret secrets/pull")
	w.waitCondition("m", "Degraded", "True/ImageUnauthorized")

	w.applyYAML(w.Secret("secrets", "pull", "first"))
	w.waitReady(a, "m", true)

	w.Protect("second")
	w.apply(document{name: "m", image: next, spec: repo})
	w.waitStatus(a, "m", "Failed/ImageUnauthorized")
	assert.Equal(t, "one", a.Runs("mod"), "what runs stays")
	w.applyYAML(w.Secret("secrets", "pull", "second"))
	w.waitReady(a, "m", true)
	assert.Equal(t, "two", a.Runs("mod"))

	role := func() string {
		return w.kubectl("get", "role", "kmmd-pull-secrets", "-n", "secrets", "--ignore-not-found", "-o", "jsonpath={.rules[*].resourceNames}")
	}
	assert.JSONEq(t, `["pull"]`, role())
	w.kubectl("delete", "module", "m", "-n", "secrets")
	w.wait("the right is taken back", func() error {
		if r := role(); r != "" {
			return fmt.Errorf("%s", r)
		}
		return nil
	})
}

// TestAccountSecrets: the imagePullSecrets of the ServiceAccount count too, also
// those it gets later.
func TestAccountSecrets(t *testing.T) {
	w := begin(t, "account")
	a := w.node("a")
	image := w.Image("one", "mod")
	w.Protect("word")
	w.applyYAML(w.Secret("account", "of-account", "word"))
	w.kubectl("create", "serviceaccount", "loader", "-n", "account")
	w.apply(document{name: "m", image: image, loader: []string{"serviceAccountName: loader"}})
	w.waitStatus(a, "m", "Failed/ImageUnauthorized")
	w.kubectl("patch", "serviceaccount", "loader", "-n", "account", "-p", `{"imagePullSecrets":[{"name":"of-account"}]}`)
	w.waitReady(a, "m", true)
}
