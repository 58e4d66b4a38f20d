// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	rbacv1 "k8s.io/api/rbac/v1"
)

func TestAgents(t *testing.T) {
	got, err := agents(options{account: "kmm-system/kmmd", group: "system:nodes"})
	require.NoError(t, err)
	assert.Equal(t, []rbacv1.Subject{
		{Kind: "ServiceAccount", Namespace: "kmm-system", Name: "kmmd"},
		{Kind: "Group", APIGroup: "rbac.authorization.k8s.io", Name: "system:nodes"},
	}, got)
	for _, account := range []string{"", "kmmd", "/kmmd", "kmm-system/"} {
		_, err := agents(options{account: account})
		assert.ErrorContains(t, err, "NAMESPACE/NAME", account)
	}
}

func TestCommand(t *testing.T) {
	run := func(args ...string) (string, error) {
		var out strings.Builder
		c := command()
		c.SetArgs(args)
		c.SetOut(&out)
		c.SetErr(&out)
		err := c.ExecuteContext(t.Context())
		return out.String(), err
	}
	out, err := run("--version")
	require.NoError(t, err)
	assert.NotEmpty(t, strings.TrimSpace(out))
	_, err = run("--kubeconfig", "/nowhere")
	assert.ErrorContains(t, err, "find the API server")
	_, err = run("extra")
	assert.Error(t, err)
}
