// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/kmm-node/kmmd/pkg/exit"
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
	for _, tt := range []struct {
		args string
		says string
		code exit.Code
	}{
		{"/usr/bin/kmm-watcher --kubeconfig /nowhere", "find the API server", exit.NotAsWanted},
		{"/usr/bin/kmm-watcher extra", `unexpected argument "extra"`, exit.Usage},
		{"kmm-watcher --workers many", "--workers", exit.Usage},
		{"kmm-watcher status -o yaml", `--output "yaml": table or json`, exit.Usage},
		{"kmm-watcher status -A -n x", "--namespace and --all-namespaces", exit.Usage},
		{"kmm-watcher status m -A", "MODULE and --all-namespaces", exit.Usage},
		{"kmm-watcher status a b", `unexpected argument "b": see kmm-watcher status --help`, exit.Usage},
		{"/usr/local/bin/kubectl-kmm status --kubeconfig /nowhere", "find the API server", exit.NotAsWanted},
		{"kubectl-kmm --listen :1", "unknown flag", exit.Usage},
		{"kubectl-kmm what", `unexpected argument "what": see kubectl kmm --help`, exit.Usage},
	} {
		_, err := run(strings.Fields(tt.args)...)
		assert.ErrorContains(t, err, tt.says, tt.args)
		assert.Equal(t, int(tt.code), exitCode(err), tt.args)
	}
	assert.Equal(t, int(exit.OK), exitCode(nil))
	out, err = run("kubectl-kmm")
	require.NoError(t, err)
	assert.Contains(t, out, "kubectl kmm [command]")
}

func TestFill(t *testing.T) {
	host, err := os.Hostname()
	require.NoError(t, err)
	for _, tt := range []struct {
		name                string
		given, want         options
		namespace, podsName string // of the environment
	}{
		{"nothing", options{}, options{namespace: "kmm-system", identity: host}, "", ""},
		{"of the pod", options{}, options{namespace: "ns", identity: "w-1"}, "ns", "w-1"},
		{"flags", options{namespace: "a", identity: "b"}, options{namespace: "a", identity: "b"}, "ns", "w-1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv(namespaceVariable, tt.namespace)
			t.Setenv(podVariable, tt.podsName)
			require.NoError(t, tt.given.fill())
			assert.Equal(t, tt.want, tt.given)
		})
	}
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
	assert.Equal(t, int(exit.Usage), exitCode(err))
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
