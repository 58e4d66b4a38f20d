// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/test/cluster/lab"
)

// patience is for nodes that are emulated, on a machine that does other things,
// too.
const patience = 15 * time.Minute

// report is what happened, step by step, as a person at the keyboard would have
// seen it.
type report struct {
	t       *testing.T
	hidden  string // a directory that has no business in the report
	started time.Time
	steps   []step
}

type step struct {
	name  string
	took  time.Duration
	lines strings.Builder
}

// step begins another one.
func (r *report) step(name string) {
	r.t.Helper()
	r.end()
	r.steps = append(r.steps, step{name: name})
	r.t.Logf("=== %s", name)
}

// end ends the last one.
func (r *report) end() {
	now := time.Now()
	if n := len(r.steps); n > 0 {
		r.steps[n-1].took = now.Sub(r.started)
	}
	r.started = now
}

// print adds lines to the last step.
func (r *report) print(format string, args ...any) {
	r.t.Helper()
	text := fmt.Sprintf(format, args...)
	r.t.Log(text)
	fmt.Fprintln(&r.steps[len(r.steps)-1].lines, strings.TrimRight(text, "\n"))
}

// kubectl runs it, and has it in the report with what it wrote.
func (r *report) kubectl(args ...string) string {
	r.t.Helper()
	out := r.ask(args...)
	line := strings.ReplaceAll(strings.Join(args, " "), r.hidden, "overlay")
	r.print("$ kubectl %s\n%s", line, strings.TrimSpace(out))
	return out
}

// reach is kubectl for what the API server asks a kubelet, which may be too slow
// for it.
func (r *report) reach(args ...string) (out string) {
	r.t.Helper()
	lab.WaitFor(r.t, patience, "kubectl "+strings.Join(args, " "), func() (err error) {
		out, err = cluster.Run(r.t.Context(), "", args...)
		return err
	})
	return out
}

// show is reach, in the report.
func (r *report) show(args ...string) string {
	r.t.Helper()
	out := r.reach(args...)
	r.print("$ kubectl %s\n%s", strings.Join(args, " "), strings.TrimSpace(out))
	return out
}

// ask is kubectl for what nobody wants to read.
func (r *report) ask(args ...string) string {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.t.Context()), patience)
	defer cancel()
	out, err := cluster.Run(ctx, "", args...)
	require.NoError(r.t, err)
	return out
}

// write writes the report into the file that KMMD_E2E_REPORT names.
func (r *report) write() {
	r.t.Helper()
	r.end()
	var b strings.Builder
	total := time.Duration(0)
	b.WriteString("| step | seconds |\n|---|---|\n")
	for _, s := range r.steps {
		fmt.Fprintf(&b, "| %s | %.0f |\n", s.name, s.took.Seconds())
		total += s.took
	}
	fmt.Fprintf(&b, "| **all** | **%.0f** |\n\n", total.Seconds())
	for _, s := range r.steps {
		fmt.Fprintf(&b, "### %s\n\n```text\n%s```\n\n", s.name, s.lines.String())
	}
	r.t.Log(b.String()[:strings.Index(b.String(), "\n\n")])
	if file := os.Getenv("KMMD_E2E_REPORT"); file != "" {
		if err := os.WriteFile(file, []byte(strings.TrimSpace(b.String())+"\n"), 0o644); err != nil {
			r.t.Error(err)
		}
	}
}
