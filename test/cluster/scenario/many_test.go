// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/test/cluster/lab"
)

// writes are requests since a mark that changed an object of that name, or an
// event about it, by the watcher or an agent.
func (w *world) writes(mark lab.Mark, name string) []string {
	w.t.Helper()
	requests, err := w.cluster.Requests(w.t.Context(), mark)
	require.NoError(w.t, err)
	var out []string
	for _, r := range requests {
		ours := strings.HasPrefix(r.UserAgent, "kmm")
		if ours && r.Code < 300 && (r.Name == name || strings.HasPrefix(r.Name, name+".")) {
			out = append(out, strings.TrimSuffix(r.Verb+" "+r.Resource+"/"+r.Subresource, "/"))
		}
	}
	return out
}

// TestManyModules: twenty Modules on a node are one order, one answer, one label
// change and one event; and no further write at rest.
func TestManyModules(t *testing.T) {
	w := begin(t, "many")
	a := w.node("a")
	var docs []document
	for i := range 20 {
		name := fmt.Sprintf("mod%d", i)
		docs = append(docs, document{name: name, module: name, image: w.Image(fmt.Sprintf("v%d", i), name)})
	}
	w.apply(docs...)
	for _, d := range docs {
		w.waitReady(a, d.name, true)
	}
	// The same node anew, with the images on its disk: how long they take to come is not
	// what is counted.
	w.takeAway(a)
	a.Join(nil)
	for _, d := range docs {
		w.waitRuns(a, d.module, "v"+strings.TrimPrefix(d.module, "mod"))
	}
	for _, d := range docs {
		w.waitCondition(d.name, "Ready", "False/NoNodes")
	}
	w.settled()
	mark, err := cluster.Mark(t.Context())
	require.NoError(t, err)
	w.kubectl("label", "node", a.Name, "world=many")
	for _, d := range docs {
		w.waitReady(a, d.name, true)
	}
	w.settled()
	assert.ElementsMatch(t, []string{
		"create nodemodulesconfigs", "patch nodemodulesconfigs/status", "patch nodes", "create events",
	}, w.writes(mark, a.Name))

	mark, err = cluster.Mark(t.Context())
	require.NoError(t, err)
	w.kubectl("annotate", "node", a.Name, "nothing=new")
	w.settled()
	assert.Empty(t, w.writes(mark, a.Name), "at rest nothing is written")

	mark, err = cluster.Mark(t.Context())
	require.NoError(t, err)
	w.kubectl("delete", "module", "mod7", "-n", "many")
	assert.Empty(t, a.Runs("mod7"))
	w.settled() // the event comes when it comes
	assert.Equal(t, "v8", a.Runs("mod8"))
	assert.ElementsMatch(t, []string{
		"patch nodes", "patch nodemodulesconfigs", "patch nodemodulesconfigs/status", "create events",
	}, w.writes(mark, a.Name))
}

// TestLongName: namespace and name of 41 characters, with dots.
func TestLongName(t *testing.T) {
	w := begin(t, "a-namespace-of-24-letters")
	name := "v1.2.3.x-nic.com"
	require.Len(t, w.namespace+name, 41)
	a := w.node("n")
	w.apply(document{name: name, image: w.Image("one", "mod"), spec: []string{plugin("x.example/plugin:1")}, container: []string{"version: v1"}})
	w.kubectl("label", "node", a.Name, "kmm.node.kubernetes.io/version-module."+w.namespace+"."+name+"=v1")
	w.waitLabel(a, w.namespace+"."+name+".version.ready", "v1")
	w.waitLabel(a, w.namespace+"."+name+".device-plugin-ready", "")
	w.kubectl("delete", "module", name, "-n", w.namespace)
	w.waitRuns(a, "mod", "")
	w.wait("its labels are gone", func() error {
		for k := range w.labels(a) {
			if !strings.HasPrefix(k, "version-module.") {
				return fmt.Errorf("%v", w.labels(a))
			}
		}
		return nil
	})
}

// TestAnnotatedExample: the example of KMM's documentation, unchanged.
func TestAnnotatedExample(t *testing.T) {
	w := begin(t, "example")
	a := w.node("a")
	w.kubectl("label", "node", a.Name, "node-role.kubernetes.io/worker=")
	manifest, err := os.ReadFile("../../../pkg/spec/testdata/annotated.yaml")
	require.NoError(t, err)
	cluster.KubectlInput(t, string(manifest), "apply", "-n", "example", "-f", "-")
	// Nobody is at some.registry, and there is no Dockerfile; what matters is that the
	// node was told, waits for the image of that name, and the Module says why.
	s := w.waitStatus(a, "my-kmod", "Building")
	assert.Equal(t, "some.registry/org/my-kmod:6.1.0-56-cloud-amd64", strings.Replace(s.Image, "my_kmod", "my-kmod", 1))
	warnings := strings.Join(s.Warnings, "\n")
	assert.Contains(t, warnings, `did you mean "\.f"`)
	nmc, _ := w.nmc(a)
	assert.Equal(t, []string{"secret-name"}, nmc.Spec.Modules[0].PullSecrets)
	w.waitCondition("my-kmod", "Degraded", "True/BuildFailed", "ConfigMap example/my-kmod-dockerfile is not there", "some.registry")
}
