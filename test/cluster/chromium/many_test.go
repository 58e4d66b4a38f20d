// SPDX-License-Identifier: Apache-2.0

package chromium_test

import (
	"fmt"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/kmm-node/kmmd/pkg/page"
	"github.com/kmm-node/kmmd/pkg/page/handler"
	"github.com/kmm-node/kmmd/test/cluster/chromium"
)

// fleet is many nodes, of which one in seven is in trouble, in its own words.
func fleet(nodes, modules int) (page.Cluster, error) {
	all := []page.State{page.Failed, page.Changing, page.Waiting}
	c := page.Cluster{At: time.Now(), Nodes: nodes}
	for m := range modules {
		p := page.Module{Namespace: "drivers", Name: fmt.Sprintf("module-%02d", m)}
		for n := range nodes {
			node := page.Node{Name: fmt.Sprintf("node-%05d", n), Kernel: fmt.Sprintf("6.12.%d-amd64", n%7), State: page.Loaded}
			if n%7 == m%7 {
				node.State, node.Reason = all[(n+m)%3], fmt.Sprintf("Reason%d", n%11)
				node.Message = strings.Repeat(fmt.Sprintf("%s says %d; ", node.Name, m), 20)
			}
			p.Nodes = append(p.Nodes, node)
		}
		c.Modules = append(c.Modules, p)
	}
	return c, nil
}

// TestMany: 5,000 nodes and 20 Modules are a page that a browser shows at once, and
// that a person can go through.
func TestMany(t *testing.T) {
	if os.Getenv("KMMD_CLUSTER") == "" {
		t.Skip("no browser is asked for, run it by make cluster-test")
	}
	s := httptest.NewServer(handler.New(func() (page.Cluster, error) { return fleet(5000, 20) }))
	defer s.Close()
	b := chromium.Start(t)
	began := time.Now()
	b.Go(s.URL + "/status")
	took := time.Since(began)
	var n struct{ Elements, Rows, Stops, Bytes int }
	b.Eval(`({elements: document.getElementsByTagName("*").length, rows: document.querySelectorAll("tr").length,
		stops: document.querySelectorAll("a[href], summary, [tabindex='0']").length, bytes: performance.getEntriesByType("navigation")[0].transferSize})`, &n)
	t.Logf("loaded after %v: %+v", took.Round(time.Millisecond), n)
	assert.Empty(t, b.Wrong())
	assert.Less(t, n.Elements, 10000)
	assert.Less(t, n.Rows, 100)
	assert.Less(t, n.Bytes, 768<<10)
	b.Press("Tab")
	var first string
	b.Eval(`document.activeElement.textContent`, &first)
	assert.Equal(t, "To the Modules", first, "what comes first is the way past the rest")
	b.Press("Enter")
	b.Eval(`document.activeElement.id`, &first)
	assert.Equal(t, "modules", first)
}
