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
	// What a RoleBinding binds to can not be changed: one of this name has to be made anew.
	w.kubectl("create", "rolebinding", "kmmd-pull-secrets", "-n", "secrets", "--role=other", "--serviceaccount=secrets:somebody")
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
	bound := func() string {
		return w.kubectl("get", "rolebinding", "kmmd-pull-secrets", "-n", "secrets", "--ignore-not-found", "-o", "jsonpath={.subjects[*].name}")
	}
	agents := bound()
	assert.NotEmpty(t, agents)
	for name, change := range map[string][]string{
		"the role is away":      {"delete", "role", "kmmd-pull-secrets"},
		"the role is another":   {"patch", "role", "kmmd-pull-secrets", "--type=json", "-p", `[{"op":"replace","path":"/rules/0/resourceNames","value":["other"]}]`},
		"the binding is away":   {"delete", "rolebinding", "kmmd-pull-secrets"},
		"the binding is nobody": {"patch", "rolebinding", "kmmd-pull-secrets", "-p", `{"subjects":null}`},
	} {
		w.kubectl(append(change, "-n", "secrets")...)
		w.wait(name+": what somebody does by hand is mended", func() error {
			if r, b := role(), bound(); r != `["pull"]` || b != agents {
				return fmt.Errorf("role %q, binding %q", r, b)
			}
			return nil
		})
	}
	w.kubectl("delete", "module", "m", "-n", "secrets")
	w.wait("the right is taken back", func() error {
		if r, b := role(), bound(); r != "" || b != "" {
			return fmt.Errorf("role %q, binding %q", r, b)
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
