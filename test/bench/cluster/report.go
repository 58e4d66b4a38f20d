// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"
)

// The targets that may not be missed.
const (
	maxWrites = 4   // about a node, for the first load, label included
	maxMemory = 300 // MiB, of the watcher
)

// misses names the targets that were missed.
func misses(results []*result) (out []string) {
	for _, r := range results {
		if n := r.load.perNode(r.nodes); n > maxWrites {
			out = append(out, fmt.Sprintf("%d nodes: %.2f writes per node for the first load, more than %d", r.nodes, n, maxWrites))
		}
		if n := r.rest.count() + r.beats.count(); n > 0 {
			out = append(out, fmt.Sprintf("%d nodes: %d writes at rest", r.nodes, n))
		}
		if n := mib(r.peak()); n > maxMemory {
			out = append(out, fmt.Sprintf("%d nodes: the watcher took %.0f MiB, more than %d", r.nodes, n, maxMemory))
		}
	}
	return out
}

// peak is the most memory that either watcher took.
func (r *result) peak() int64 { return max(r.on.memory[watcher].peak, r.again.memory[watcher].peak) }

// table prints a column for each size.
func table(w io.Writer, o options, results []*result) {
	head, line := "\n| |", "|---|"
	for _, r := range results {
		head += fmt.Sprintf(" %d nodes |", r.nodes)
		line += "---|"
	}
	fmt.Fprintf(w, "%s\n%s\n", head, line)
	for _, row := range rows(o) {
		fmt.Fprintf(w, "| %s |", row.name)
		for _, r := range results {
			fmt.Fprintf(w, " %s |", row.of(r))
		}
		fmt.Fprintln(w)
	}
}

type row struct {
	name string
	of   func(*result) string
}

func rows(o options) []row {
	var out []row
	add := func(name, format string, of func(*result) any) {
		out = append(out, row{name, func(r *result) string { return fmt.Sprintf(format, of(r)) }})
	}
	seconds := func(of func(*result) *stretch, what string) func(*result) any {
		return func(r *result) any { return of(r).until(what).Seconds() }
	}
	cpu := func(of func(*result) *stretch, who string) func(*result) any {
		return func(r *result) any { return of(r).cpu[who].Seconds() }
	}
	whole := func(title string, of func(*result) *stretch) {
		add(title+": all NodeModulesConfigs written, s", "%.1f", seconds(of, aboutSpec))
		add("all statuses in, s", "%.1f", seconds(of, aboutStatus))
		add("all labels set, s", "%.1f", seconds(of, aboutLabels))
		add("writes per node", "%.2f", func(r *result) any { return of(r).perNode(r.nodes) })
		add("writes of Modules and others", "%d", func(r *result) any { return of(r).count(aboutModule, aboutOther) })
		add("CPU of the watcher, s", "%.1f", cpu(of, watcher))
		add("CPU of all agents together, s", "%.1f", cpu(of, agents))
		add("CPU of the API server and etcd, s", "%.1f", func(r *result) any { return (of(r).cpu[apiServer] + of(r).cpu[etcd]).Seconds() })
	}
	load := func(r *result) *stretch { return r.load }
	whole(fmt.Sprintf("**%d Modules applied**", o.modules), load)
	whole("**one Module changed**", func(r *result) *stretch { return r.change })
	add("a node without its label, s: median (longest)", "%s", func(r *result) any {
		median, longest := r.change.away()
		return fmt.Sprintf("%.1f (%.1f)", median.Seconds(), longest.Seconds())
	})
	for _, f := range []struct {
		title string
		of    func(*result) *stretch
		took  func(*result) time.Duration
	}{
		{"**one node taken out of a Module**", func(r *result) *stretch { return r.off }, func(r *result) time.Duration { return r.offTook }},
		{"**one node brought into a Module**", func(r *result) *stretch { return r.on }, func(r *result) time.Duration { return r.onTook }},
	} {
		add(f.title+": ms", "%.0f", func(r *result) any { return f.took(r).Seconds() * 1000 })
		add("writes about the node", "%.1f", func(r *result) any { return f.of(r).perNode(flips) })
		add("CPU of the watcher, ms", "%.1f", func(r *result) any { return r.each(f.of(r)).Seconds() * 1000 })
	}
	add(fmt.Sprintf("**rest for %.0f s**: writes", o.rest.Seconds()), "%d", func(r *result) any { return r.rest.count() })
	add("CPU of the watcher, s", "%.2f", cpu(func(r *result) *stretch { return r.rest }, watcher))
	add("**each kubelet reports once**: writes", "%d", func(r *result) any { return r.beats.count() })
	add("CPU of the watcher, s", "%.2f", cpu(func(r *result) *stretch { return r.beats }, watcher))
	add("**watcher started anew**: writes", "%d", func(r *result) any { return r.again.count() })
	add("CPU of the watcher, s", "%.1f", cpu(func(r *result) *stretch { return r.again }, watcher))
	add("**memory of the watcher**: after the first load, MiB", "%.0f", func(r *result) any { return mib(r.load.memory[watcher].now) })
	add("peak, MiB", "%.0f", func(r *result) any { return mib(r.on.memory[watcher].peak) })
	add("peak of the one started anew, MiB", "%.0f", func(r *result) any { return mib(r.again.memory[watcher].peak) })
	add("peak of the API server, MiB", "%.0f", func(r *result) any { return mib(r.again.memory[apiServer].peak) })
	add("a NodeModulesConfig, bytes (status, managedFields)", "%s", func(r *result) any {
		return fmt.Sprintf("%d (%d, %d)", r.object[0], r.object[1], r.object[2])
	})
	add("refused writes", "%s", func(r *result) any { return r.refusals() })
	add("load average before", "%s", func(r *result) any { return r.loadAverage })
	return out
}

// each is the watcher's CPU time for one of the flips, without what it takes at
// rest.
func (r *result) each(st *stretch) time.Duration {
	idle := float64(r.rest.cpu[watcher]) / float64(r.rest.to.Sub(r.rest.from))
	return (st.cpu[watcher] - time.Duration(idle*float64(st.to.Sub(st.from)))) / flips
}

func (r *result) refusals() string {
	var words []string
	for _, st := range []*stretch{r.connect, r.load, r.change, r.rest, r.beats, r.off, r.on, r.again} {
		for code, n := range st.refused() {
			words = append(words, fmt.Sprintf("%d of %d", n, code))
		}
	}
	if len(words) == 0 {
		return "none"
	}
	return strings.Join(words, ", ")
}

func mib(n int64) float64 { return float64(n) / (1 << 20) }

// describe says what was measured on what.
func describe(w io.Writer) {
	script := `. /etc/os-release; echo "$PRETTY_NAME, Linux $(uname -r), $(nproc) cores $(sed -n 's/^model name[^:]*: //p;T;q' /proc/cpuinfo)"`
	if out, err := exec.Command("bash", "-c", script).Output(); err == nil {
		fmt.Fprint(w, string(out))
	}
}

func loadAverage() string {
	data, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	one, _, _ := strings.Cut(string(data), " ")
	return one
}
