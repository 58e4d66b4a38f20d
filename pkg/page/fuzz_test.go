// SPDX-License-Identifier: Apache-2.0

package page_test

import (
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/assert"

	"github.com/kmm-node/kmmd/pkg/page"
)

// FuzzPage has nodes and Modules say anything. On the pages it is text: as many
// tags and quotes are in them as when it says something harmless. On a terminal no
// control character is left.
func FuzzPage(f *testing.F) {
	f.Add("eth0 uses virtio_net\nkernel: <script>alert(1)</script>", "6.1.0\"><img src=x onerror=alert(1)>", "InUse'", "v1&amp;")
	f.Add("\x1b[31mred\x1b[0m", "javascript:alert(1)", "a\u202eb", "</style><script>")
	f.Fuzz(func(t *testing.T, message, kernel, reason, version string) {
		if len(message)+len(kernel)+len(reason)+len(version) > 2000 {
			return
		}
		harmless := func(s string) string {
			return strings.NewReplacer("<", "a", ">", "b", `"`, "c", "'", "d", "&", "e", "`", "f").Replace(s)
		}
		said := clusterSaying(message, kernel, reason, version)
		plain := clusterSaying(harmless(message), harmless(kernel), harmless(reason), harmless(version))
		filter := page.Filter{Namespace: "drivers", Name: "nic"}
		for _, pages := range [][2]string{
			{overview(t, said), overview(t, plain)},
			{module(t, said, filter), module(t, plain, filter)},
		} {
			for _, c := range []string{"<", ">", `"`, "'", "`"} {
				assert.Equal(t, strings.Count(pages[1], c), strings.Count(pages[0], c), "%s in %q", c, pages[0])
			}
			assert.NotContains(t, strings.ToLower(pages[0]), `href="javascript:`)
		}
		for _, text := range []string{text(t, said), textModule(t, said, "nic")} {
			assert.False(t, strings.ContainsFunc(text, func(r rune) bool { return unicode.IsControl(r) && r != '\n' }), "%q", text)
		}
	})
}

// clusterSaying is the small cluster, which says this wherever it says something.
func clusterSaying(message, kernel, reason, version string) *page.Cluster {
	c := small()
	for i := range c.Modules {
		m := &c.Modules[i]
		for j := range m.Nodes {
			n := &m.Nodes[j]
			n.Kernel, n.Version = kernel, version
			if n.Reason != "" {
				n.Message, n.Reason = message, reason
			}
		}
		for j := range m.Conditions {
			m.Conditions[j].Message = message
		}
		for j := range m.Images {
			m.Images[j].Message, m.Images[j].Kernel, m.Images[j].Image = message, kernel, version
		}
	}
	for i := range c.Validations {
		c.Validations[i].Kernel = kernel
		for j := range c.Validations[i].Modules {
			c.Validations[i].Modules[j].StatusReason = message
		}
	}
	return c
}
