// SPDX-License-Identifier: Apache-2.0

package page

import (
	"cmp"
	"slices"
	"strings"
)

// Bounds of the matrix: rows of nodes that stand alike, and Modules.
const (
	maxColumns = 24
	maxRows    = 40
	maxCells   = 600
	maxNames   = 10  // nodes that a row names
	maxSaid    = 2   // messages of a cell
	maxSayers  = 3   // nodes that a message names
	maxCell    = 240 // bytes of a message
)

// Matrix is Modules × nodes. Nodes with the same kernel that stand alike with all
// Modules share a row: thousands are a few rows.
type Matrix struct {
	Columns     []Column
	Rows        []Row
	MoreColumns int
	MoreRows    int
	MoreNodes   int // in MoreRows
}

// Column is a Module.
type Column struct{ Namespace, Name string }

// Row is nodes that stand alike.
type Row struct {
	Kernel string
	N      int
	Names  []string // the first of them, by name
	More   int      // not named
	Cells  []Cell   // one per column
}

// Cell is how a Module stands on the nodes of a row. The zero value has nothing to
// do with them.
type Cell struct {
	State  State
	Reason string
	Said   []Said // the first different messages
	More   int    // different messages not shown
}

// Said is a message and who says so.
type Said struct {
	Message string
	Nodes   []string
	More    int // nodes not named
}

// ledger gives every node its row.
type ledger struct {
	columns []*Module
	ids     map[string]int // by node
	nodes   []ledgerNode
}

type ledgerNode struct {
	name, kernel string
	cells        []*Node // by column; nil where there is nothing
}

func newMatrix(c *Cluster) Matrix {
	l := ledger{ids: map[string]int{}}
	var m Matrix
	l.columns, m.MoreColumns = chooseColumns(c)
	for i, module := range l.columns {
		m.Columns = append(m.Columns, Column{module.Namespace, module.Name})
		for j := range module.Nodes {
			l.put(i, &module.Nodes[j])
		}
	}
	groups := l.groups()
	keep := min(maxRows, max(4, maxCells/max(1, len(l.columns))))
	shown, more := cut(groups, keep)
	m.MoreRows = more
	for _, g := range groups[len(shown):] {
		m.MoreNodes += len(g)
	}
	for _, g := range shown {
		m.Rows = append(m.Rows, l.row(g))
	}
	return m
}

// chooseColumns takes all Modules, or those with the worst states, in the order of
// their names.
func chooseColumns(c *Cluster) ([]*Module, int) {
	all := make([]*Module, len(c.Modules))
	worst := map[*Module]int{}
	for i := range c.Modules {
		all[i] = &c.Modules[i]
		worst[all[i]] = len(states)
		for j := range all[i].Nodes {
			worst[all[i]] = min(worst[all[i]], all[i].Nodes[j].State.rank())
		}
	}
	if len(all) <= maxColumns {
		return all, 0
	}
	byName := slices.Clone(all)
	slices.SortStableFunc(byName, func(a, b *Module) int { return worst[a] - worst[b] })
	kept := map[*Module]bool{}
	for _, m := range byName[:maxColumns] {
		kept[m] = true
	}
	return slices.DeleteFunc(all, func(m *Module) bool { return !kept[m] }), len(c.Modules) - maxColumns
}

func (l *ledger) put(column int, n *Node) {
	i, ok := l.ids[n.Name]
	if !ok {
		i = len(l.nodes)
		l.ids[n.Name] = i
		l.nodes = append(l.nodes, ledgerNode{name: n.Name, kernel: n.Kernel, cells: make([]*Node, len(l.columns))})
	}
	l.nodes[i].cells[column] = n
}

// groups are the nodes that stand alike, the worst first, then the largest.
func (l *ledger) groups() [][]*ledgerNode {
	by := map[string][]*ledgerNode{}
	var key strings.Builder
	for i := range l.nodes {
		n := &l.nodes[i]
		key.Reset()
		key.WriteString(n.kernel)
		for _, c := range n.cells {
			key.WriteByte(0)
			if c != nil {
				key.WriteString(string(c.State))
				key.WriteByte(1)
				key.WriteString(c.Reason)
			}
		}
		by[key.String()] = append(by[key.String()], n)
	}
	out := make([][]*ledgerNode, 0, len(by))
	for _, g := range by {
		slices.SortFunc(g, func(a, b *ledgerNode) int { return cmp.Compare(a.name, b.name) })
		out = append(out, g)
	}
	slices.SortFunc(out, func(a, b []*ledgerNode) int {
		return cmp.Or(cmp.Compare(a[0].worst(), b[0].worst()), cmp.Compare(len(b), len(a)), cmp.Compare(a[0].name, b[0].name))
	})
	return out
}

func (n *ledgerNode) worst() int {
	w := len(states)
	for _, c := range n.cells {
		if c != nil {
			w = min(w, c.State.rank())
		}
	}
	return w
}

func (l *ledger) row(g []*ledgerNode) Row {
	r := Row{Kernel: g[0].kernel, N: len(g)}
	for _, n := range g[:min(len(g), maxNames)] {
		r.Names = append(r.Names, n.name)
	}
	r.More = len(g) - len(r.Names)
	for i := range l.columns {
		r.Cells = append(r.Cells, cellOf(g, i))
	}
	return r
}

// cellOf collects what the nodes of a row say.
func cellOf(g []*ledgerNode, column int) Cell {
	first := g[0].cells[column]
	if first == nil {
		return Cell{}
	}
	c := Cell{State: first.State, Reason: first.Reason}
	at := map[string]int{}
	for _, n := range g {
		message := n.cells[column].Message
		if message == "" {
			continue
		}
		i, known := at[message]
		if !known {
			i = len(at)
			at[message] = i
			if i < maxSaid {
				c.Said = append(c.Said, Said{Message: shorten(message, maxCell)})
			}
		}
		switch {
		case i >= maxSaid:
		case len(c.Said[i].Nodes) < maxSayers:
			c.Said[i].Nodes = append(c.Said[i].Nodes, n.name)
		default:
			c.Said[i].More++
		}
	}
	c.More = max(0, len(at)-maxSaid)
	return c
}
