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
		c := command(args[0])
		args = args[1:]
		c.SetArgs(args)
		c.SetOut(&out)
		c.SetErr(&out)
		err := c.ExecuteContext(t.Context())
		return out.String(), err
	}
	out, err := run("/usr/bin/kmm-watcher", "--version")
	require.NoError(t, err)
	assert.NotEmpty(t, strings.TrimSpace(out))
	_, err = run("/usr/bin/kmm-watcher", "--kubeconfig", "/nowhere")
	assert.ErrorContains(t, err, "find the API server")
	_, err = run("/usr/bin/kmm-watcher", "extra")
	assert.Error(t, err)
	for _, tt := range []struct {
		args string
		says string
	}{
		{"kmm-watcher status -o yaml", `--output "yaml": table or json`},
		{"kmm-watcher status -A -n x", "--namespace and --all-namespaces"},
		{"kmm-watcher status m -A", "MODULE and --all-namespaces"},
		{"kmm-watcher status a b", "at most 1 arg"},
		{"/usr/local/bin/kubectl-kmm status --kubeconfig /nowhere", "find the API server"},
		{"kubectl-kmm --listen :1", "unknown flag"},
	} {
		_, err := run(strings.Fields(tt.args)...)
		assert.ErrorContains(t, err, tt.says, tt.args)
	}
	out, err = run("kubectl-kmm")
	require.NoError(t, err)
	assert.Contains(t, out, "kubectl kmm [command]")
}

func TestSite(t *testing.T) {
	l := &leader{options: options{namespace: "kmm-system", identity: "me"}}
	o := siteFlags{}
	s, err := o.site(l, nil)
	require.NoError(t, err)
	assert.Empty(t, s.Pages, "the page is asked for")
	assert.Nil(t, s.Access)
	assert.Nil(t, s.TLS)
	o = siteFlags{cert: "/nowhere"}
	_, err = o.site(l, nil)
	assert.ErrorContains(t, err, "both or none")
	o = siteFlags{cert: "/nowhere/c", key: "/nowhere/k"}
	_, err = o.site(l, nil)
	assert.ErrorContains(t, err, "/nowhere/c")
	o = siteFlags{page: true, access: true}
	s, err = o.site(l, nil)
	require.NoError(t, err)
	assert.NotNil(t, s.Access)
	assert.NotNil(t, s.TLS, "a token is not sent in the clear")
	assert.Contains(t, s.Pages, "/status")
	_, err = l.snapshot()
	assert.ErrorContains(t, err, "not known yet")
	other := "other"
	l.holder.Store(&other)
	_, err = l.snapshot()
	assert.ErrorContains(t, err, "pod/other 9809")
}
