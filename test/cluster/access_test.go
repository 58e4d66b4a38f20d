// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"k8s.io/client-go/rest"

	"github.com/kmm-node/kmmd/test/cluster/lab"
)

const (
	nmcs       = "/apis/kmm.sigs.x-k8s.io/v1beta1/nodemodulesconfigs"
	roles      = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles"
	bindings   = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings"
	secrets    = "/api/v1/namespaces/default/secrets"
	someStatus = `[{"op":"add","path":"/status","value":{"summary":"1 loaded"}}]`
	someSpec   = `[{"op":"add","path":"/spec","value":{"modules":[]}}]`
	pullRole   = `{"metadata":{"name":"kmmd-pull-secrets"},"rules":[{"apiGroups":[""],"resources":["secrets"],"verbs":["get"],"resourceNames":["granted"]}]}`
	pullGrant  = `{"metadata":{"name":"kmmd-pull-secrets"},"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"Role","name":"kmmd-pull-secrets"},
		"subjects":[{"kind":"ServiceAccount","name":"kmmd","namespace":"kmm-system"}]}`
)

// access is a request and its answer: a status code, and a word of the message.
type access struct {
	name, method, path, body string
	code                     int
	says                     string
}

// check makes requests as somebody. What they change is not kept.
func check(t *testing.T, who *rest.Config, rows []access) {
	t.Helper()
	client, err := rest.HTTPClientFor(who)
	require.NoError(t, err)
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			code, answer := do(t, client, who.Host, row)
			assert.Equal(t, row.code, code, answer)
			assert.Contains(t, answer, row.says)
		})
	}
}

// known waits until the API server answers so: what is written about rights, and
// whether a node is there, it knows some time later.
func known(t *testing.T, who *rest.Config, row access) {
	t.Helper()
	client, err := rest.HTTPClientFor(who)
	require.NoError(t, err)
	lab.Wait(t, row.name, func() error {
		if code, answer := do(t, client, who.Host, row); code != row.code || !strings.Contains(answer, row.says) {
			return fmt.Errorf("%d: %s", code, answer)
		}
		return nil
	})
}

func do(t *testing.T, client *http.Client, host string, row access) (int, string) {
	t.Helper()
	url := host + row.path
	if row.method != http.MethodGet {
		url += "?dryRun=All"
	}
	r, err := http.NewRequestWithContext(t.Context(), row.method, url, strings.NewReader(row.body))
	require.NoError(t, err)
	switch {
	case row.method == http.MethodPatch && strings.HasPrefix(row.body, "["):
		r.Header.Set("Content-Type", "application/json-patch+json")
	case row.method == http.MethodPatch:
		r.Header.Set("Content-Type", "application/merge-patch+json")
	default:
		r.Header.Set("Content-Type", "application/json")
	}
	response, err := client.Do(r)
	require.NoError(t, err)
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return response.StatusCode, string(answer)
}

func account(t *testing.T, name, node string) *rest.Config {
	t.Helper()
	config, err := cluster.ServiceAccount(t.Context(), "kmm-system", name, node)
	require.NoError(t, err)
	return config
}

func applied(t *testing.T, manifest string) {
	t.Helper()
	cluster.KubectlInput(t, manifest, "apply", "-f", "-")
	t.Cleanup(func() { cluster.KubectlInput(t, manifest, "delete", "--ignore-not-found", "-f", "-") })
}

// twoNodes is what the tests of access need, once the API server knows all
// policies.
func twoNodes(t *testing.T) {
	t.Helper()
	policiesKnown(t)
	applied(t, `
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Node, metadata: {name: n1, labels: {theirs: one}}}
- {apiVersion: v1, kind: Node, metadata: {name: n2}}
- {apiVersion: kmm.sigs.x-k8s.io/v1beta1, kind: NodeModulesConfig, metadata: {name: n1}}
- {apiVersion: kmm.sigs.x-k8s.io/v1beta1, kind: NodeModulesConfig, metadata: {name: n2}}
- {apiVersion: v1, kind: Secret, metadata: {name: granted, namespace: default}}
- {apiVersion: v1, kind: Secret, metadata: {name: other, namespace: default}}
- {apiVersion: v1, kind: Secret, metadata: {name: granted, namespace: kube-system}}
`)
	known(t, account(t, "kmmd", ""), access{"the agents' policy is obeyed", "PATCH", nmcs + "/n1/status", someStatus, 403, "bound to a Node object"})
	known(t, account(t, "kmm-watcher", ""), access{"the watcher's policy is obeyed", "POST", roles,
		strings.ReplaceAll(pullRole, "kmmd-pull-secrets", "mine"), 403, "named kmmd-pull-secrets only"})
}

// policiesKnown waits for the API server to obey the policy of Modules: it reads
// policies about once a second.
func policiesKnown(t *testing.T) {
	t.Helper()
	long := edited(t, edit{"metadata", "name: " + strings.Repeat("x", 35)})
	lab.Wait(t, "the policy is obeyed", func() error {
		if _, err := try(t.Context(), modules(t), long); err == nil {
			return assert.AnError
		}
		return nil
	})
}

func TestAgent(t *testing.T) {
	twoNodes(t)
	applied(t, `{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"Role",`+pullRole[1:])
	applied(t, `{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"RoleBinding",`+pullGrant[1:])
	agent := account(t, "kmmd", "n1")
	known(t, agent, access{"the secret is granted", "GET", secrets + "/granted", "", 200, ""})
	check(t, agent, []access{
		{"its own", "GET", nmcs + "/n1", "", 200, ""},
		{"its own by name", "GET", nmcs + "?fieldSelector=metadata.name%3Dn1", "", 200, ""},
		{"its own status", "PATCH", nmcs + "/n1/status", someStatus, 200, "1 loaded"},
		{"another's status", "PATCH", nmcs + "/n2/status", someStatus, 403, "the agent of node n1 may write the status of its own NodeModulesConfig, not that of n2"},
		{"its own spec", "PATCH", nmcs + "/n1", someSpec, 403, "cannot patch"},
		{"a new one", "POST", nmcs, `{"metadata":{"name":"n3"}}`, 403, "cannot create"},
		{"away with it", "DELETE", nmcs + "/n1", "", 403, "cannot delete"},
		{"a granted secret", "GET", secrets + "/granted", "", 200, ""},
		{"another secret", "GET", secrets + "/other", "", 403, "cannot get"},
		{"the granted name elsewhere", "GET", "/api/v1/namespaces/kube-system/secrets/granted", "", 403, "cannot get"},
		{"all secrets", "GET", secrets, "", 403, "cannot list"},
		{"the granted secret in a list", "GET", secrets + "?fieldSelector=metadata.name%3Dgranted", "", 403, "cannot list"},
		{"changing a granted secret", "PATCH", secrets + "/granted", `{"data":{}}`, 403, "cannot patch"},
		{"modules", "GET", "/apis/kmm.sigs.x-k8s.io/v1beta1/modules", "", 403, "cannot list"},
		{"its node's labels", "PATCH", "/api/v1/nodes/n1", `{"metadata":{"labels":{"a":"b"}}}`, 403, "cannot patch"},
		{"a token", "POST", "/api/v1/namespaces/kmm-system/serviceaccounts/kmmd/token", `{}`, 403, "cannot create"},
	})
}

// TestStatusIsBounded: what a node says is no larger than what kmmd says.
func TestStatusIsBounded(t *testing.T) {
	twoNodes(t)
	agent := account(t, "kmmd", "n1")
	known(t, agent, access{"its own status", "PATCH", nmcs + "/n1/status", someStatus, 200, "1 loaded"})
	one := func(change string) string {
		return `{"namespace":"ns","name":"m","state":"Failed","reason":"InitFailed","message":"no device","revision":"0123456789abcdef","since":"2026-01-01T00:00:00Z"` + change + `}`
	}
	status := func(modules ...string) string {
		return `[{"op":"add","path":"/status","value":{"modules":[` + strings.Join(modules, ",") + `]}}]`
	}
	long := func(field string, n int) string { return `,"` + field + `":"` + strings.Repeat("x", n) + `"` }
	check(t, agent, []access{
		{"as kmmd says it", "PATCH", nmcs + "/n1/status", status(one("")), 200, "no device"},
		{"the longest message of kmmd", "PATCH", nmcs + "/n1/status", status(one(long("message", 4<<10))), 200, "xxx"},
		{"a state and a reason to come", "PATCH", nmcs + "/n1/status", status(one(`,"state":"Resting","reason":"NotYetKnown"`)), 200, "NotYetKnown"},
		{"many", "PATCH", nmcs + "/n1/status", status(slices.Repeat([]string{one("")}, 1024)...), 200, "no device"},
		{"too many", "PATCH", nmcs + "/n1/status", status(slices.Repeat([]string{one("")}, 1025)...), 422, "status.modules: Too many"},
		{"a long message", "PATCH", nmcs + "/n1/status", status(one(long("message", 4<<10+1))), 422, "status.modules[0].message: Too long"},
		{"a long name", "PATCH", nmcs + "/n1/status", status(one(long("name", 254))), 422, "status.modules[0].name: Too long"},
		{"a long namespace", "PATCH", nmcs + "/n1/status", status(one(long("namespace", 254))), 422, "status.modules[0].namespace: Too long"},
		{"a long revision", "PATCH", nmcs + "/n1/status", status(one(long("revision", 129))), 422, "status.modules[0].revision: Too long"},
		{"a long state", "PATCH", nmcs + "/n1/status", status(one(long("state", 65))), 422, "status.modules[0].state: Too long"},
		{"a long reason", "PATCH", nmcs + "/n1/status", status(one(long("reason", 65))), 422, "status.modules[0].reason: Too long"},
		{"a time in small letters", "PATCH", nmcs + "/n1/status", status(one(`,"since":"2026-01-01t00:00:00z"`)), 422, "status.modules[0].since"},
		{"a time in no zone", "PATCH", nmcs + "/n1/status", status(one(`,"retryAt":"2026-01-01T00:00:00+99:99"`)), 422, "status.modules[0].retryAt"},
		{"no day", "PATCH", nmcs + "/n1/status", status(one(`,"since":"2026-02-30T00:00:00Z"`)), 422, "status.modules[0].since"},
		{"no generation", "PATCH", nmcs + "/n1/status", `[{"op":"add","path":"/status","value":{"observedGeneration":1e30}}]`, 422, "status.observedGeneration"},
		{"a reason that is no word", "PATCH", nmcs + "/n1/status", status(one(`,"reason":"no such thing"`)), 422, "status.modules[0].reason"},
	})
}

func TestAgentWithoutNode(t *testing.T) {
	twoNodes(t)
	check(t, account(t, "kmmd", ""), []access{
		{"reading", "GET", nmcs + "/n1", "", 200, ""},
		{"writing", "PATCH", nmcs + "/n1/status", someStatus, 403, "it needs a token that is bound to a Node object"},
	})
	applied(t, `{"apiVersion":"v1","kind":"Node","metadata":{"name":"gone"}}`)
	gone := account(t, "kmmd", "gone")
	cluster.Kubectl(t, "delete", "node", "gone")
	known(t, gone, access{"the node is gone", "GET", nmcs + "/n1", "", 401, ""})
}

// TestAgentWithMoreRights: the policy holds also where RBAC allows too much.
func TestAgentWithMoreRights(t *testing.T) {
	twoNodes(t)
	applied(t, `
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: too-much}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}
subjects: [{kind: ServiceAccount, name: kmmd, namespace: kmm-system}]
`)
	const says = "may write the status of its NodeModulesConfig, and nothing else of it"
	agent := account(t, "kmmd", "n1")
	known(t, agent, access{"RBAC allows it", "PATCH", nmcs + "/n1", someSpec, 403, says})
	check(t, agent, []access{
		{"its own status", "PATCH", nmcs + "/n1/status", someStatus, 200, ""},
		{"another's status", "PATCH", nmcs + "/n2/status", someStatus, 403, "not that of n2"},
		{"its own spec", "PATCH", nmcs + "/n1", someSpec, 403, says},
		{"a new one", "POST", nmcs, `{"apiVersion":"kmm.sigs.x-k8s.io/v1beta1","kind":"NodeModulesConfig","metadata":{"name":"n1x"}}`, 403, says},
		{"away with it", "DELETE", nmcs + "/n1", "", 403, says},
	})
}

func TestKubelet(t *testing.T) {
	twoNodes(t)
	kubelet, err := cluster.Kubelet("n1")
	require.NoError(t, err)
	check(t, kubelet, []access{
		{"no agent by default", "PATCH", nmcs + "/n1/status", someStatus, 403, "cannot patch"},
	})
	cluster.Kubectl(t, "apply", "-f", "deploy/kubelet-identity/access.yaml")
	defer cluster.Kubectl(t, "delete", "-f", "deploy/kubelet-identity/access.yaml")
	known(t, kubelet, access{"it is an agent", "GET", nmcs + "/n1", "", 200, ""})
	check(t, kubelet, []access{
		{"its own", "GET", nmcs + "/n1", "", 200, ""},
		{"its own status", "PATCH", nmcs + "/n1/status", someStatus, 200, ""},
		{"another's status", "PATCH", nmcs + "/n2/status", someStatus, 403, "the agent of node n1"},
		{"its own spec", "PATCH", nmcs + "/n1", someSpec, 403, "cannot patch"},
		{"a secret", "GET", secrets + "/granted", "", 403, "no relationship found"},
	})
	nobody, err := cluster.User("somebody", "system:nodes")
	require.NoError(t, err)
	check(t, nobody, []access{{"no node's name", "PATCH", nmcs + "/n1/status", someStatus, 403, "bound to a Node object"}})
}

func TestWatcher(t *testing.T) {
	twoNodes(t)
	applied(t, plain)
	const group = "/apis/kmm.sigs.x-k8s.io/v1beta1"
	uid := cluster.Kubectl(t, "get", "module", "m", "-o", "jsonpath={.metadata.uid}")
	plugin := `{"metadata":{"name":"d","ownerReferences":[{"apiVersion":"kmm.sigs.x-k8s.io/v1beta1","kind":"Module","name":"m","uid":"` + uid + `","controller":true,"blockOwnerDeletion":true}]},
		"spec":{"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"a:1"}]}}}}`
	check(t, account(t, "kmm-watcher", ""), []access{
		{"a finalizer", "PATCH", group + "/namespaces/default/modules/m", `{"metadata":{"finalizers":["kmm.node.kubernetes.io/module-finalizer"]}}`, 200, ""},
		{"a Module's status", "PATCH", group + "/namespaces/default/modules/m/status", `{"status":{"observedGeneration":1}}`, 200, ""},
		{"a Module", "DELETE", group + "/namespaces/default/modules/m", "", 403, "cannot delete"},
		{"what a node shall run", "PATCH", nmcs + "/n1", someSpec, 200, ""},
		{"for a new node", "POST", nmcs, `{"apiVersion":"kmm.sigs.x-k8s.io/v1beta1","kind":"NodeModulesConfig","metadata":{"name":"n3"}}`, 201, ""},
		{"for a node no more", "DELETE", nmcs + "/n1", "", 200, ""},
		{"what a node did", "PATCH", nmcs + "/n1/status", someStatus, 403, "cannot patch"},
		{"what is ready on a node", "PATCH", "/api/v1/nodes/n1", `{"metadata":{"labels":{"kmm.node.kubernetes.io/default.m.ready":""}}}`, 200, ""},
		{"and is no more", "PATCH", "/api/v1/nodes/n1", `{"metadata":{"labels":{"kmm.node.kubernetes.io/default.m.ready":null}}}`, 200, ""},
		{"another label of a node", "PATCH", "/api/v1/nodes/n1", `{"metadata":{"labels":{"a":"b"}}}`, 403, "labels kmm.node.kubernetes.io/… of a Node only"},
		{"which changes", "PATCH", "/api/v1/nodes/n1", `{"metadata":{"labels":{"theirs":"other"}}}`, 403, "labels kmm.node.kubernetes.io/… of a Node only"},
		{"which goes", "PATCH", "/api/v1/nodes/n1", `{"metadata":{"labels":{"theirs":null}}}`, 403, "labels kmm.node.kubernetes.io/… of a Node only"},
		{"a taint", "PATCH", "/api/v1/nodes/n1", `{"spec":{"taints":[{"key":"a","effect":"NoExecute"}]}}`, 403, "labels of a Node only"},
		{"a cordon", "PATCH", "/api/v1/nodes/n1", `{"spec":{"unschedulable":true}}`, 403, "labels of a Node only"},
		{"an annotation of a node", "PATCH", "/api/v1/nodes/n1", `{"metadata":{"annotations":{"a":"b"}}}`, 403, "labels of a Node only"},
		{"a finalizer of a node", "PATCH", "/api/v1/nodes/n1", `{"metadata":{"finalizers":["a.example/b"]}}`, 403, "labels of a Node only"},
		{"status of a node", "PATCH", "/api/v1/nodes/n1/status", `{}`, 403, "cannot patch"},
		{"pods", "GET", "/api/v1/pods", "", 200, ""},
		{"pods of a namespace", "DELETE", "/api/v1/namespaces/default/pods/a", "", 403, "cannot delete"},
		{"service accounts", "GET", "/api/v1/serviceaccounts", "", 200, ""},
		{"secrets", "GET", "/api/v1/secrets", "", 403, "cannot list"},
		{"a plugin", "POST", "/apis/apps/v1/namespaces/default/daemonsets", plugin, 201, ""},
		{"a device class", "POST", "/apis/resource.k8s.io/v1/deviceclasses", `{"metadata":{"name":"d"},"spec":{}}`, 201, ""},
		{"an event", "POST", "/api/v1/namespaces/default/events", `{"metadata":{"name":"e"},"involvedObject":{"kind":"Node","name":"n1"}}`, 201, ""},
		{"a lease of its own", "POST", "/apis/coordination.k8s.io/v1/namespaces/kmm-system/leases", `{"metadata":{"name":"l"}}`, 201, ""},
		{"a lease elsewhere", "POST", "/apis/coordination.k8s.io/v1/namespaces/default/leases", `{"metadata":{"name":"l"}}`, 403, "cannot create"},
	})
}

// TestWatcherGrants: what the watcher may make of its right to read Secrets.
func TestWatcherGrants(t *testing.T) {
	twoNodes(t)
	applied(t, `{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"Role","metadata":{"name":"theirs","namespace":"default"}}`)
	other := func(s, before, after string) string {
		require.Contains(t, s, before)
		return strings.ReplaceAll(s, before, after)
	}
	watcher := account(t, "kmm-watcher", "")
	check(t, watcher, []access{
		{"a secret", "POST", roles, pullRole, 201, ""},
		{"under another name", "POST", roles, other(pullRole, "kmmd-pull-secrets", "mine"), 403, "named kmmd-pull-secrets only"},
		{"all secrets", "POST", roles, other(pullRole, `["granted"]`, `[]`), 403, "by their names only"},
		{"more verbs", "POST", roles, other(pullRole, `["get"]`, `["get","list"]`), 403, ""},
		{"other things", "POST", roles, other(pullRole, `["secrets"]`, `["pods"]`), 403, "by their names only"},
		{"nothing", "POST", roles, `{"metadata":{"name":"kmmd-pull-secrets"}}`, 201, ""},
		{"somebody else's role", "DELETE", roles + "/theirs", "", 403, "cannot delete"},
	})
	applied(t, `{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"Role",`+pullRole[1:])
	check(t, watcher, []access{
		{"to agents", "POST", bindings, pullGrant, 201, ""},
		{"to kubelets", "POST", bindings, other(pullGrant, `{"kind":"ServiceAccount","name":"kmmd","namespace":"kmm-system"}`, `{"apiGroup":"rbac.authorization.k8s.io","kind":"Group","name":"system:nodes"}`), 201, ""},
		{"to itself", "POST", bindings, other(pullGrant, `"name":"kmmd"`, `"name":"kmm-watcher"`), 403, "to agents only"},
		{"to a namesake", "POST", bindings, other(pullGrant, "kmm-system", "default"), 403, "to agents only"},
		{"another role", "POST", bindings, other(pullGrant, `"Role","name":"kmmd-pull-secrets"`, `"Role","name":"theirs"`), 403, "to agents only"},
		{"a cluster role", "POST", bindings, other(pullGrant, `"kind":"Role","name":"kmmd-pull-secrets"`, `"kind":"ClusterRole","name":"kmmd"`), 403, "not currently held"},
		{"a changed role", "PATCH", roles + "/kmmd-pull-secrets", `{"rules":[{"apiGroups":[""],"resources":["secrets"],"verbs":["get"]}]}`, 403, "by their names only"},
		{"no role any more", "DELETE", roles + "/kmmd-pull-secrets", "", 200, ""},
	})
}
