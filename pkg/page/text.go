// SPDX-License-Identifier: Apache-2.0

package page

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
)

// Text writes the first page for a terminal.
func Text(w io.Writer, o *Overview) error {
	t := newTable(w)
	t.row("MODULE", "LOADED", "NODES", "ROLLOUT", "TROUBLE")
	for i := range o.Modules {
		m := &o.Modules[i]
		var states []string
		for _, c := range m.Counts {
			states = append(states, fmt.Sprintf("%d %s", c.N, c.State))
		}
		t.row(m.Namespace+"/"+m.Name, fmt.Sprintf("%d/%d", m.Loaded, m.Wanted), strings.Join(states, ", "), m.Progress, m.Trouble)
	}
	t.end(len(o.Modules) == 0, "There is no Module.")
	t.more(o.MoreModules, "Module", "Modules")
	t.matrix(&o.Matrix)
	if len(o.Images) > 0 {
		t.line("")
		t.row("IMAGE FOR", "KERNEL", "STATE", "STAGE", "TRIES", "AGE", "WHY")
		for i := range o.Images {
			r := &o.Images[i]
			t.row(r.Module, r.Kernel, r.State, r.Stage, fmt.Sprint(r.Attempts), age(o.At, r.Since.Time), why(r.Reason, r.Text))
		}
		t.end(false, "")
		t.more(o.MoreImages, "image", "images")
	}
	for i := range o.Validations {
		v := &o.Validations[i]
		t.line("")
		t.line(strings.TrimSpace(fmt.Sprintf("PreflightValidation %s, kernel %s: all ready: %s. %s", v.Name, v.Kernel, v.Verified, v.Message)))
		t.row("MODULE", "RESULT", "STAGE", "WHY")
		for _, m := range v.Modules {
			t.row(m.Namespace+"/"+m.Name, m.VerificationStatus, m.VerificationStage, why("", m.StatusReason))
		}
		t.end(false, "")
		t.more(v.More, "Module", "Modules")
	}
	t.more(o.MoreChecks, "PreflightValidation", "PreflightValidations")
	return t.err
}

// matrix: below each group of nodes what is not well there.
func (t *table) matrix(m *Matrix) {
	if len(m.Rows) == 0 {
		return
	}
	t.line("")
	t.row("NODES", "KERNEL", "STANDS", "WHY")
	for i := range m.Rows {
		r := &m.Rows[i]
		nodes := r.Names[0]
		if r.N > 1 {
			nodes = fmt.Sprintf("%d nodes: %s", r.N, strings.Join(r.Names[:min(3, len(r.Names))], " "))
			if r.N > 3 {
				nodes += " …"
			}
		}
		kernel, loaded, others := r.Kernel, 0, 0
		for j, c := range r.Cells {
			if c.State == Loaded {
				loaded++
			}
			if c.State == Loaded || c.State == "" {
				continue
			}
			others++
			message := ""
			if len(c.Said) > 0 {
				message = c.Said[0].Message
			}
			t.row(nodes, kernel, fmt.Sprintf("%s %s/%s", c.State, m.Columns[j].Namespace, m.Columns[j].Name), why(c.Reason, message))
			nodes, kernel = "", ""
		}
		if loaded > 0 {
			what := many(loaded, "Module", "Modules")
			if others == 0 {
				what = "all, " + what
			}
			t.row(nodes, kernel, fmt.Sprintf("%s %s", Loaded, what), "")
		}
	}
	t.end(false, "")
	t.more(m.MoreNodes, "node", "nodes")
	t.more(m.MoreColumns, "Module", "Modules")
}

// TextModule writes one Module with all its nodes for a terminal, each reason in
// whole.
func TextModule(w io.Writer, c *Cluster, namespace, name string) error {
	t := newTable(w)
	p, ok := NewModulePage(c, Filter{Namespace: namespace, Name: name})
	if !ok {
		return fmt.Errorf("%w: %s/%s", ErrNoModule, namespace, name)
	}
	t.line(fmt.Sprintf("Module %s/%s: loaded on %d of %s. Rollout: %s", namespace, name, p.Loaded, many(p.Wanted, "node", "nodes"), p.Progress))
	for _, x := range p.Conditions {
		t.line(fmt.Sprintf("%s: %s, %s: %s", x.Type, x.Status, x.Reason, x.Message))
	}
	for i := range p.Images {
		r := &p.Images[i]
		t.line(fmt.Sprintf("image for %s: %s %s %s", r.Kernel, r.State, r.Image, why(r.Reason, r.Text)))
	}
	t.line("")
	t.row("NODE", "KERNEL", "STATE", "AGE", "VERSION", "WHY")
	for i := range c.Modules {
		if c.Modules[i].Namespace != namespace || c.Modules[i].Name != name {
			continue
		}
		for _, n := range c.Modules[i].Nodes {
			t.row(n.Name, n.Kernel, string(n.State), age(c.At, n.Since), n.Version, why(n.Reason, n.Message))
		}
		t.end(len(c.Modules[i].Nodes) == 0, "It has to do with no node.")
	}
	return t.err
}

func why(reason, message string) string {
	if reason != "" && message != "" {
		return reason + ": " + message
	}
	return reason + message
}

// age in one unit.
func age(now, then time.Time) string {
	d := now.Sub(then)
	switch {
	case then.IsZero():
		return ""
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", int(max(d, 0)/time.Second))
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm", int(d/time.Minute))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d/time.Hour))
	}
	return fmt.Sprintf("%dd", int(d/(24*time.Hour)))
}

// table writes columns; the first error stays.
type table struct {
	w    io.Writer
	rows [][]string
	err  error
}

func newTable(w io.Writer) *table { return &table{w: w} }

func (t *table) row(cells ...string) {
	for i := range cells {
		cells[i] = plain(cells[i])
	}
	t.rows = append(t.rows, cells)
}

// end writes the rows, or something instead.
func (t *table) end(empty bool, instead string) {
	rows := t.rows
	t.rows = nil
	if empty {
		t.line(instead)
		return
	}
	var b bytes.Buffer
	tabs := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, r := range rows {
		fmt.Fprintln(tabs, strings.Join(r, "\t"))
	}
	if err := tabs.Flush(); t.err == nil {
		t.err = err
	}
	for line := range strings.Lines(b.String()) {
		t.note(fmt.Fprintln(t.w, strings.TrimRight(line, " \n")))
	}
}

func (t *table) line(s string) { t.note(fmt.Fprintln(t.w, plain(s))) }

func (t *table) more(n int, one, many string) {
	if n == 1 {
		t.line("and 1 more " + one)
	} else if n > 1 {
		t.line(fmt.Sprintf("and %d more %s", n, many))
	}
}

func (t *table) note(_ int, err error) {
	if t.err == nil {
		t.err = err
	}
}

// plain keeps what others wrote from doing anything to a terminal, and in one
// line.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t' || r == '\r':
			return ' '
		case unicode.IsPrint(r):
			return r
		}
		return '�'
	}, s)
}
