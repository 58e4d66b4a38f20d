// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"maps"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/kmm-node/kmmd/test/cluster/lab"
	"github.com/kmm-node/kmmd/test/docs"
)

// anyKind is a definition of a kind of somebody else's, without its fields: those
// are tested elsewhere.
const anyKind = `---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: NAMEs.monitoring.coreos.com}
spec:
  group: monitoring.coreos.com
  scope: Namespaced
  names: {kind: KIND, plural: NAMEs, singular: NAME}
  versions:
  - {name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}
`

// readPages does what pages say about installing, in a cluster that has nothing of
// ours but definitions.
func readPages(t *testing.T, c *lab.Cluster) {
	t.Helper()
	definitions := ""
	for _, kind := range []string{"PodMonitor", "PrometheusRule"} {
		definitions += strings.NewReplacer("KIND", kind, "NAME", strings.ToLower(kind)).Replace(anyKind)
	}
	c.KubectlInput(t, definitions, "apply", "-f", "-")
	require.NoError(t, c.Served(t.Context(), "podmonitors.monitoring.coreos.com", "prometheusrules.monitoring.coreos.com"))
	openShiftKinds(t, c)
	c.Kubectl(t, "create", "namespace", "kmm-system")
	r := c.Reader(t)
	r.Words = map[string]string{"YOUR-OVERLAY": "deploy/kubelet-identity"}
	r.Before = func(_ *testing.T, command *docs.Command) bool {
		if strings.Contains(command.Text, "-k deploy/kubernetes") { // the first after helm, in the place of it
			c.Kubectl(t, "delete", "deployments,daemonsets,configmaps,serviceaccounts,networkpolicies,poddisruptionbudgets,roles,rolebindings,"+
				"clusterroles,clusterrolebindings,validatingadmissionpolicies,validatingadmissionpolicybindings", "-A", "-l", "app.kubernetes.io/part-of=kmmd")
		}
		return true
	}
	for _, path := range docs.Labs()["api"].Pages {
		r.Read(t, path, "api")
	}
}

// TestFragments: parts of a Module that pages show are ones.
func TestFragments(t *testing.T) {
	all, err := docs.All(repository)
	require.NoError(t, err)
	found := 0
	for _, page := range all {
		for _, b := range page.Blocks {
			if b.Language != "yaml" || b.File != "" {
				continue
			}
			found++
			var fragment, module map[string]any
			require.NoError(t, yaml.Unmarshal([]byte(b.Text), &fragment))
			require.NoError(t, yaml.Unmarshal([]byte(plain), &module))
			spec := module["spec"].(map[string]any)
			if more, ok := fragment["spec"].(map[string]any); ok {
				maps.Copy(spec, more)
			} else {
				maps.Copy(spec["moduleLoader"].(map[string]any)["container"].(map[string]any), fragment)
			}
			text, err := yaml.Marshal(module)
			require.NoError(t, err)
			_, err = cluster.Run(t.Context(), string(text), "apply", "--dry-run=server", "-f", "-")
			assert.NoError(t, err, "%s:%d", b.Page, b.Line)
		}
	}
	assert.GreaterOrEqual(t, found, 3)
}
