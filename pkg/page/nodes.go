// SPDX-License-Identifier: Apache-2.0

package page

import (
	"cmp"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Bounds of a Module's own page.
const (
	pageNodes = 200 // nodes on one page
	maxGroups = 200
)

// Filter chooses nodes of one Module; empty fields choose all.
type Filter struct {
	Namespace, Name       string
	State, Kernel, Reason string
	After                 string // the last node of the page before
}

// ModulePage is one Module with its nodes.
type ModulePage struct {
	At time.Time
	ModuleRow
	Conditions []metav1.Condition
	Images     []ImageRow
	Groups     []Group
	MoreGroups int
	Filter     Filter
	Total      int // that the filter chooses
	Before     int // of those, on pages before this one
	Nodes      []Node
	Next       string // After of the page that follows, or ""
}

// Group is nodes of one Module that stand alike.
type Group struct {
	State          State
	Kernel, Reason string
	N              int
}

// NewModulePage makes a Module's own page; false when there is none of that name.
func NewModulePage(c *Cluster, f Filter) (ModulePage, bool) {
	i := slices.IndexFunc(c.Modules, func(m Module) bool { return m.Namespace == f.Namespace && m.Name == f.Name })
	if i < 0 {
		return ModulePage{}, false
	}
	m := &c.Modules[i]
	p := ModulePage{At: c.At, ModuleRow: newRow(m), Conditions: m.Conditions, Filter: f}
	p.Images, _ = cut(images(m), maxImages)
	p.Groups, p.MoreGroups = cut(groups(m.Nodes), maxGroups)
	for i := range m.Nodes {
		n := &m.Nodes[i]
		if !f.takes(n) {
			continue
		}
		p.Total++
		switch {
		case f.After != "" && n.Name <= f.After:
			p.Before++
		case len(p.Nodes) < pageNodes:
			p.Nodes = append(p.Nodes, *n)
		}
	}
	if p.Before+len(p.Nodes) < p.Total {
		p.Next = p.Nodes[len(p.Nodes)-1].Name
	}
	return p, true
}

func (f *Filter) takes(n *Node) bool {
	return (f.State == "" || f.State == string(n.State)) && (f.Kernel == "" || f.Kernel == n.Kernel) &&
		(f.Reason == "" || f.Reason == n.Reason)
}

// Chosen says what a filter chooses, for people; "" is everything.
func (f Filter) Chosen() string {
	var parts []string
	for _, p := range []string{f.State, f.Reason, f.Kernel} {
		if p != "" {
			parts = append(parts, p)
		}
	}
	return strings.Join(parts, ", ")
}

func groups(nodes []Node) []Group {
	by := map[Group]int{}
	for i := range nodes {
		n := &nodes[i]
		by[Group{State: n.State, Kernel: n.Kernel, Reason: n.Reason}]++
	}
	out := make([]Group, 0, len(by))
	for g, n := range by {
		g.N = n
		out = append(out, g)
	}
	slices.SortFunc(out, func(a, b Group) int {
		return cmp.Or(cmp.Compare(a.State.rank(), b.State.rank()), cmp.Compare(b.N, a.N),
			strings.Compare(a.Kernel, b.Kernel), strings.Compare(a.Reason, b.Reason))
	})
	return out
}
