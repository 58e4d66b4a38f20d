// SPDX-License-Identifier: Apache-2.0

package page

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/page"
	"github.com/kmm-node/kmmd/test/cluster/chromium"
	"github.com/kmm-node/kmmd/test/cluster/lab"
)

// TestLook is a person who looks: in a browser, with a keyboard, with a screen
// reader, and on a terminal.
func TestLook(t *testing.T) {
	first, address := watcher(t, "first", "--status-page")
	scene(t)
	b := chromium.Start(t)
	url := "http://" + address + "/status"
	shown(t, url)
	b.Go(url)
	t.Run("nothing goes wrong", func(t *testing.T) { quiet(t, b, url) })
	t.Run("keyboard", func(t *testing.T) { keyboard(t, b) })
	t.Run("screen reader", func(t *testing.T) { screenReader(t, b) })
	t.Run("preferences", func(t *testing.T) { preferences(t, b, url) })
	t.Run("one Module", func(t *testing.T) { oneModule(t, b, url) })
	t.Run("terminal", func(t *testing.T) { terminal(t) })
	t.Run("the same", func(t *testing.T) { theSame(t, b, url) })
	t.Run("watch", func(t *testing.T) { watch(t) })
	t.Run("rights", func(t *testing.T) { rights(t) })
	t.Run("access", func(t *testing.T) { access(t, b, first) })
}

// quiet: no console message, no request but for the page, no script.
func quiet(t *testing.T, b *chromium.Browser, url string) {
	assert.Empty(t, b.Wrong())
	asked := slices.DeleteFunc(b.Asked(), func(u string) bool { return u == url || strings.HasPrefix(u, "data:") })
	assert.Empty(t, asked)
	var n struct{ Scripts, Images, Frames, Animations, Tables int }
	b.Eval(`({scripts: document.scripts.length, images: document.images.length, frames: frames.length,
		animations: document.getAnimations().length, tables: document.querySelectorAll("table").length})`, &n)
	assert.Zero(t, n.Scripts+n.Images+n.Frames+n.Animations, "what a node says is text: %+v", n)
	assert.Equal(t, 4, n.Tables, "Modules, nodes, images, one kernel to come")
	var text string
	b.Eval(`document.body.textContent`, &text)
	assert.Contains(t, text, "<script>alert(1)</script>")
}

// keyboard goes through the page by Tab, and opens each reason by Enter.
func keyboard(t *testing.T, b *chromium.Browser) {
	const stops = `(all = [...document.querySelectorAll("a[href], summary, [tabindex='0']")].filter(e => e.checkVisibility()), all.length)`
	var all int
	b.Eval(stops, &all)
	var order []int
	opened := 0
	for range 400 {
		b.Press("Tab")
		var at struct {
			Index         int
			Summary, Ring bool
		}
		b.Eval(`({index: all.indexOf(document.activeElement), summary: document.activeElement.tagName == "SUMMARY",
			ring: getComputedStyle(document.activeElement).outlineStyle == "solid"})`, &at)
		if at.Index < 0 || len(order) > 0 && at.Index <= order[len(order)-1] {
			break // round once
		}
		order = append(order, at.Index)
		assert.True(t, at.Ring, "element %d shows that it has the focus", at.Index)
		if !at.Summary {
			continue
		}
		var height float64
		b.Press("Enter")
		b.Eval(`document.activeElement.nextElementSibling.getBoundingClientRect().height`, &height)
		assert.Positive(t, height, "element %d opens", at.Index)
		opened++
		// A reason that is open has links of its own, which come next.
		b.Eval(stops, &all)
	}
	var summaries int
	b.Eval(`document.querySelectorAll("summary").length`, &summaries)
	assert.Equal(t, summaries, opened, "each reason can be reached and opened")
	assert.GreaterOrEqual(t, opened, 4)
	require.NotEmpty(t, order)
	assert.Equal(t, all-1, order[len(order)-1], "to the last")
	var open int
	b.Eval(`document.querySelectorAll("details[open]").length`, &open)
	assert.Equal(t, summaries, open)
}

// screenReader: tables have names, headings for rows and columns; headings make
// an outline.
func screenReader(t *testing.T, b *chromium.Browser) {
	count := map[string]int{}
	var tables, outline []string
	reasons := 0
	for _, thing := range b.Things() {
		count[thing.Role]++
		if strings.HasPrefix(thing.Role, "DisclosureTriangle") {
			reasons++
		}
		switch thing.Role {
		case "table":
			tables = append(tables, thing.Name)
		case "heading":
			outline = append(outline, fmt.Sprintf("%d %s", thing.Level, thing.Name))
		case "DisclosureTriangle", "DisclosureTriangleGrouped", "link", "region":
			assert.NotEmpty(t, thing.Name, thing.Role)
		}
	}
	assert.Equal(t, []string{
		"On how many nodes each Module is loaded, and how the others stand",
		"How each Module stands on nodes; nodes that stand alike share a row, the worst first",
		"Images that the cluster builds or signs, those that failed first",
		"What PreflightValidation next has found out of each Module",
	}, tables)
	assert.Equal(t, []string{
		"1 Kernel modules", "2 Modules", "2 Nodes", "2 Images", "2 Kernels to come", "3 next: 6.12.117+deb12-cloud-amd64",
	}, outline)
	assert.GreaterOrEqual(t, reasons, 4)
	assert.Equal(t, 1, count["main"])
	assert.Equal(t, 1, count["banner"])
	assert.Equal(t, 1, count["navigation"])
	assert.GreaterOrEqual(t, count["columnheader"], 5+2+4+7+4)
	assert.GreaterOrEqual(t, count["rowheader"], 4+2+1+4)
	var language, title string
	b.Eval(`document.documentElement.lang`, &language)
	b.Eval(`document.title`, &title)
	assert.Equal(t, "en", language)
	assert.Equal(t, "Kernel modules", title)
}

// preferences: dark by night, no motion, no sideways scrolling of the page on a
// small screen.
func preferences(t *testing.T, b *chromium.Browser, url string) {
	var colour string
	b.Media("prefers-color-scheme", "dark")
	b.Eval(`getComputedStyle(document.body).backgroundColor`, &colour)
	assert.Equal(t, "rgb(22, 24, 27)", colour)
	b.Media("prefers-color-scheme", "light")
	b.Eval(`getComputedStyle(document.body).backgroundColor`, &colour)
	assert.Equal(t, "rgb(255, 255, 255)", colour)
	b.Do("Emulation.setDeviceMetricsOverride", map[string]any{"width": 320, "height": 640, "deviceScaleFactor": 1, "mobile": true}, nil)
	b.Go(url)
	var width int
	b.Eval(`document.documentElement.scrollWidth`, &width)
	var wide []string
	b.Eval(`[...document.querySelectorAll("body *")].filter(e => e.getBoundingClientRect().right > 321 && !e.parentElement.closest(".scroll")).map(e => e.outerHTML.slice(0, 200))`, &wide)
	assert.LessOrEqual(t, width, 320, "tables scroll by themselves: %q", wide)
	b.Do("Emulation.clearDeviceMetricsOverride", nil, nil)
}

// oneModule follows links, as a person does.
func oneModule(t *testing.T, b *chromium.Browser, url string) {
	b.Go(url)
	var link string
	b.Eval(`[...document.querySelectorAll("a")].find(a => a.textContent == "look/bad").href`, &link)
	b.Go(link)
	assert.Empty(t, b.Wrong())
	var rows []string
	b.Eval(`[...document.querySelectorAll("table:last-of-type tbody tr")].map(r => r.textContent).filter(t => t.startsWith("look-"))`, &rows)
	require.Len(t, rows, 2)
	for _, r := range rows {
		assert.Contains(t, r, "Failed")
		assert.Contains(t, r, "NoModules")
	}
	b.Eval(`[...document.querySelectorAll("a")].find(a => a.textContent == "2 nodes").href`, &link)
	b.Go(link)
	assert.Empty(t, b.Wrong())
	b.Eval(`[...document.querySelectorAll("a")].find(a => a.textContent == "All Modules").href`, &link)
	assert.Equal(t, url, link)
}

func terminal(t *testing.T) {
	out, notes, err := status(t, cluster.KubeconfigPath(), "-A")
	require.NoError(t, err, notes)
	for _, want := range []string{"look/good", "2/2", "look/bad", "NoModules", "IMAGE FOR", "PreflightValidation next"} {
		assert.Contains(t, out, want)
	}
	assert.NotContains(t, out, "\x1b")
	t.Log("\n" + out)
	// As a plugin, found by kubectl itself.
	dir := t.TempDir()
	require.NoError(t, os.Symlink(bin(t)+"/kmm-watcher", dir+"/kubectl-kmm"))
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	out = cluster.Kubectl(t, "kmm", "status", "evil", "-n", namespace)
	assert.Contains(t, out, "look-evil")
	assert.Contains(t, out, "InitFailed: <script>")
	assert.NotContains(t, out, "\x1b")
	_, notes, err = status(t, cluster.KubeconfigPath(), "nobody", "-n", namespace)
	require.Error(t, err)
	assert.Contains(t, notes, "there is no such Module: look/nobody")
}

// theSame: what the watcher shows from its memory, and a person's terminal from the
// API server.
func theSame(t *testing.T, b *chromium.Browser, url string) {
	lab.Wait(t, "page and terminal agree", func() error {
		out, notes, err := status(t, cluster.KubeconfigPath(), "-A", "-o", "json")
		require.NoError(t, err, notes)
		var c page.Cluster
		require.NoError(t, json.Unmarshal([]byte(out), &c))
		require.Len(t, c.Modules, 4)
		assert.Equal(t, 3, c.Nodes)
		for i := range c.Modules {
			m := &c.Modules[i]
			b.Go(url + "/module?namespace=" + m.Namespace + "&name=" + m.Name)
			var seen []string
			b.Eval(`[...document.querySelectorAll("section[aria-labelledby=nodes] tbody tr")].map(r => [0, 1, 2].map(i => r.cells[i].innerText.replace(/^[^A-Za-z]+/, "").trim()).join(" "))`, &seen)
			var told []string
			for _, n := range m.Nodes {
				told = append(told, n.Name+" "+strings.TrimLeft(n.Kernel, "0123456789.-")+" "+string(n.State))
			}
			if !slices.Equal(seen, told) {
				return fmt.Errorf("%s: page %q, terminal %q", m.Name, seen, told)
			}
		}
		return nil
	})
}
