// SPDX-License-Identifier: Apache-2.0

package page_test

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
	"github.com/kmm-node/kmmd/pkg/api/v1beta2"
	"github.com/kmm-node/kmmd/pkg/page"
)

var update = flag.Bool("update", false, "write the golden files again")

var at = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)

func ago(d time.Duration) metav1.Time { return metav1.NewTime(at.Add(-d)) }

// small is a cluster with one of everything.
func small() *page.Cluster {
	const old, new = "6.1.0-56-amd64", "6.12.117-amd64"
	return &page.Cluster{
		At: at, Nodes: 6,
		Modules: []page.Module{{
			Namespace: "drivers", Name: "nic",
			Rollout: &page.Rollout{MaxUnavailable: "10%", PauseOnFailures: 1},
			Conditions: []metav1.Condition{
				{Type: "Ready", Status: "False", Reason: "NotAllNodes", Message: "2 of 5 nodes run the module", LastTransitionTime: ago(time.Hour)},
				{Type: "Progressing", Status: "False", Reason: "RolloutPaused", Message: "1 node has failed; 1 node was not begun", LastTransitionTime: ago(time.Minute)},
				{Type: "Degraded", Status: "True", Reason: "InUse", Message: "n3: InUse: eth0 uses virtio_net", LastTransitionTime: ago(time.Minute)},
			},
			Nodes: []page.Node{
				{Name: "n1", Kernel: old, State: page.Loaded, Version: "v2", Since: at.Add(-3 * time.Hour)},
				{Name: "n2", Kernel: old, State: page.Loaded, Version: "v2", Since: at.Add(-3 * time.Hour)},
				{Name: "n3", Kernel: new, State: page.Failed, Reason: "InUse", Message: "eth0 uses virtio_net\nkernel: said more", Version: "v1", Since: at.Add(-time.Minute)},
				{Name: "n4", Kernel: new, State: page.Waiting, Version: "v1"},
				{Name: "n5", Kernel: new, State: page.Changing, Version: "v2"},
			},
		}, {
			Namespace: "drivers", Name: "store", Deleting: true,
			Nodes: []page.Node{{Name: "n1", Kernel: old, State: page.Leaving}, {Name: "n2", Kernel: old, State: page.Leaving}},
		}, {
			Namespace: "gpu", Name: "made",
			Conditions: []metav1.Condition{{Type: "Progressing", Status: "True", Reason: "Building", Message: "1 image is being made"}},
			Images: []v1beta1.ModuleImage{
				{Kernel: new, Image: "reg.example/made:6.12", State: "Failed", Stage: "Build", Reason: "BuildFailed", Message: "step 3: gcc: error", Attempts: 2, Since: ago(time.Minute), RetryAt: &metav1.Time{Time: at.Add(time.Minute)}},
				{Kernel: old, Image: "reg.example/made:6.1", State: "Ready", Digest: "sha256:1234", Attempts: 1, Since: ago(time.Hour)},
			},
			Nodes: []page.Node{
				{Name: "n3", Kernel: new, State: page.Building},
				{Name: "n6", Kernel: old, State: page.Excluded, Message: "the node's taint a=b:NoSchedule is not tolerated"},
			},
		}},
		Validations: []page.Validation{{
			Name: "next", Kernel: "6.18.1-amd64",
			Conditions: []metav1.Condition{{Type: v1beta2.ConditionVerified, Status: "False", Message: "1 of 2 Modules is ready"}},
			Modules: []v1beta2.PreflightValidationModuleStatus{
				{Namespace: "drivers", Name: "nic", CRBaseStatus: v1beta2.CRBaseStatus{VerificationStatus: "Success", VerificationStage: "Done"}},
				{Namespace: "gpu", Name: "made", CRBaseStatus: v1beta2.CRBaseStatus{VerificationStatus: "Failure", VerificationStage: "Done", StatusReason: "NoModules: the image has nothing for 6.18.1-amd64"}},
			},
		}},
	}
}

func overview(t *testing.T, c *page.Cluster) string {
	t.Helper()
	o := page.NewOverview(c)
	var b bytes.Buffer
	require.NoError(t, page.NewHTML().Overview(&b, &o, 0))
	return b.String()
}

func module(t *testing.T, c *page.Cluster, f page.Filter) string {
	t.Helper()
	p, ok := page.NewModulePage(c, f)
	require.True(t, ok)
	var b bytes.Buffer
	require.NoError(t, page.NewHTML().Module(&b, &p))
	return b.String()
}

func text(t *testing.T, c *page.Cluster) string {
	t.Helper()
	o := page.NewOverview(c)
	var b bytes.Buffer
	require.NoError(t, page.Text(&b, &o))
	return b.String()
}

func textModule(t *testing.T, c *page.Cluster, name string) string {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, page.TextModule(&b, c, "drivers", name))
	return b.String()
}

// golden compares with a file; the style is the same everywhere and left out.
func golden(t *testing.T, name, got string) {
	t.Helper()
	got = strings.Replace(got, page.Style(), "", 1)
	path := filepath.Join("testdata", name)
	if *update {
		require.NoError(t, os.WriteFile(path, []byte(got), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.Equal(t, string(want), got)
}

func TestGolden(t *testing.T) {
	c := small()
	golden(t, "overview.html", overview(t, c))
	golden(t, "module.html", module(t, c, page.Filter{Namespace: "drivers", Name: "nic"}))
	golden(t, "failed.html", module(t, c, page.Filter{Namespace: "drivers", Name: "nic", State: "Failed"}))
	golden(t, "empty.html", overview(t, &page.Cluster{At: at}))
	golden(t, "overview.txt", text(t, c))
	golden(t, "module.txt", textModule(t, c, "nic"))
	golden(t, "empty.txt", text(t, &page.Cluster{At: at}))
	assert.ErrorIs(t, page.TextModule(&bytes.Buffer{}, c, "drivers", "other"), page.ErrNoModule)
}

func TestRefresh(t *testing.T) {
	o := page.NewOverview(small())
	var b bytes.Buffer
	require.NoError(t, page.NewHTML().Overview(&b, &o, 10))
	assert.Contains(t, b.String(), `<meta http-equiv="refresh" content="10">`)
}

// TestHostile: whatever a node, an image or a build says is text.
func TestHostile(t *testing.T) {
	const evil = `</style></title></p><script>alert(1)</script><img src=x onerror=alert(1)>"' onclick='x' javascript:alert(1) {{.}} &amp; ]]> <!-- ` + "\x1b]0;t\x07\x1b[2J\u202e\x00\u009b"
	c := &page.Cluster{
		At: at, Nodes: 1,
		Modules: []page.Module{{
			Namespace: evil, Name: evil, Rollout: &page.Rollout{MaxUnavailable: evil},
			Conditions: []metav1.Condition{
				{Type: "Degraded", Status: "True", Reason: evil, Message: evil}, {Type: "Progressing", Status: "True", Reason: evil, Message: evil},
			},
			Images: []v1beta1.ModuleImage{{Kernel: evil, Image: evil, State: evil, Stage: evil, Reason: evil, Message: evil, Job: evil}},
			Nodes: []page.Node{
				{Name: evil, Kernel: evil, State: evil, Reason: evil, Message: evil, Version: evil}, {Name: evil + "2", Kernel: evil, State: evil, Reason: evil, Message: evil},
			},
		}},
		Validations: []page.Validation{{
			Name: evil, Kernel: evil, Conditions: []metav1.Condition{{Type: v1beta2.ConditionVerified, Status: evil, Message: evil}},
			Modules: []v1beta2.PreflightValidationModuleStatus{{Namespace: evil, Name: evil, CRBaseStatus: v1beta2.CRBaseStatus{
				VerificationStatus: evil, VerificationStage: evil, StatusReason: evil,
			}}},
		}},
	}
	for name, got := range map[string]string{
		"overview": overview(t, c),
		"module":   module(t, c, page.Filter{Namespace: evil, Name: evil, State: evil, Kernel: evil, Reason: evil}),
	} {
		got = strings.Replace(got, page.Style(), "", 1)
		for _, tag := range []string{"<script", "<img", "<!-- ", "onclick='", `" onclick`, `href="javascript`} {
			if strings.Contains(got, tag) { // the page itself is too long to be shown
				t.Errorf("%s has %s", name, tag)
			}
		}
		assert.Equal(t, 1, strings.Count(got, "</title>"), name)
		assert.Equal(t, 1, strings.Count(got, "</style>"), name)
	}
	o := page.NewOverview(c)
	var b bytes.Buffer
	require.NoError(t, page.Text(&b, &o))
	require.NoError(t, page.TextModule(&b, c, evil, evil))
	for _, r := range b.String() {
		assert.False(t, r != '\n' && (r < ' ' || r >= 0x7f && r < 0xa0 || r == 0x202e), "%q goes to a terminal", r)
	}
}

// fleet is many nodes and Modules, with as many different states and messages as
// there can be.
func fleet(nodes, modules int) *page.Cluster {
	all := []page.State{page.Failed, page.Leaving, page.Changing, page.Building, page.Waiting, page.Unmapped, page.Older, page.Excluded, page.Loaded}
	c := &page.Cluster{At: at, Nodes: nodes}
	for m := range modules {
		p := page.Module{Namespace: "drivers", Name: fmt.Sprintf("module-%03d", m)}
		for n := range nodes {
			node := page.Node{Name: fmt.Sprintf("node-%05d.example", n), Kernel: fmt.Sprintf("6.12.%d-amd64", n%7), State: page.Loaded, Since: at}
			if s := all[(n*31+m*17)%len(all)]; n%3 == 0 {
				node.State, node.Reason = s, fmt.Sprintf("Reason%d", (n+m)%11)
				node.Message = strings.Repeat(fmt.Sprintf("%s says %d; ", node.Name, m), 20)
			}
			p.Nodes = append(p.Nodes, node)
		}
		c.Modules = append(c.Modules, p)
	}
	return c
}

// TestSize: 5,000 nodes of which a third is in trouble, each in its own words.
func TestSize(t *testing.T) {
	c := fleet(5000, 20)
	got := overview(t, c)
	t.Logf("overview: %d bytes", len(got))
	assert.Less(t, len(got), 768<<10)
	assert.Less(t, len(overview(t, fleet(10000, 20)))-len(got), 16<<10, "more nodes are no larger page")
	one := module(t, c, page.Filter{Namespace: "drivers", Name: "module-003"})
	t.Logf("module: %d bytes", len(one))
	assert.Less(t, len(one), 512<<10)
	o := page.NewOverview(c)
	n := o.Matrix.MoreNodes
	for _, r := range o.Matrix.Rows {
		n += r.N
	}
	assert.Equal(t, 5000, n, "every node is in a row, or in the rest that is counted")
}

// TestPages: going on from page to page shows every node once.
func TestPages(t *testing.T) {
	c := fleet(1001, 1)
	var names []string
	f := page.Filter{Namespace: "drivers", Name: "module-000"}
	for {
		p, ok := page.NewModulePage(c, f)
		require.True(t, ok)
		assert.Equal(t, len(names), p.Before)
		for _, n := range p.Nodes {
			names = append(names, n.Name)
		}
		if p.Next == "" {
			break
		}
		f.After = p.Next
	}
	require.Len(t, names, 1001)
	for i, n := range c.Modules[0].Nodes {
		assert.Equal(t, n.Name, names[i])
	}
	f.After = "zzz"
	p, _ := page.NewModulePage(c, f)
	assert.Empty(t, p.Next, "beyond the last node there is nothing")
}

func BenchmarkOverview(b *testing.B) {
	c := fleet(5000, 20)
	h := page.NewHTML()
	for b.Loop() {
		o := page.NewOverview(c)
		var out bytes.Buffer
		if err := h.Overview(&out, &o, 0); err != nil {
			b.Fatal(err)
		}
	}
}
