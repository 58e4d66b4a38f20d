// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
)

// report is everything, in the form of docs/performance.md.
type report struct {
	o       options
	host    speed
	load    float64 // average, before
	kernels []result
	deps    []deps
	binary  int64
}

// errMissed is what print returns when an aim is missed.
var errMissed = errors.New("not all aims are reached")

// print writes the tables, and fails when an aim is missed.
func (r *report) print(w io.Writer) error {
	fmt.Fprintf(w, "kmmd: %.1f MB (amd64, as it ships). Load of the machine before: %.1f.\n", float64(r.binary)/1e6, r.load)
	for i := range r.kernels {
		k := &r.kernels[i]
		fmt.Fprintf(w, "\n### Linux %s\n", k.Release)
		if k.Speed.Loop > 0 {
			s := slower(k.Speed, r.host)
			fmt.Fprintf(w, "\nBy its own clock slower than the machine: arithmetic %.1f times, getppid(2) %.1f, SHA-256 %.1f, Go that parses a document %.1f.\n", s.Loop, s.Syscall, s.SHA256, s.Go)
		}
		printLoads(w, k)
		printStarts(w, k)
		printRest(w, k)
		printIdle(w, k)
	}
	r.printDeps(w)
	return r.printAims(w)
}

// slower tells by how much each is slower than on the host.
func slower(guest, host speed) speed {
	return speed{Loop: guest.Loop / host.Loop, Syscall: guest.Syscall / host.Syscall, SHA256: host.SHA256 / guest.SHA256, Go: guest.Go / host.Go}
}

func printLoads(w io.Writer, r *result) {
	if r.Loads == nil {
		return
	}
	fmt.Fprint(w, "\n| ms | finit_module | modprobe | kmmd | kmmd again | kmmd / finit_module | kmmd / modprobe | kmmd - 1.15 finit_module |\n|---|---|---|---|---|---|---|---|\n")
	for _, s := range scenarios() {
		l := r.Loads[s.name]
		fmt.Fprintf(w, "| %s | %.1f | %.1f | %.1f | %.1f | %.2f | %.2f | %.1f |\n", s.title, median(l[wayRaw]), median(l[wayModprobe]),
			median(l[wayFirst]), median(l[wayAgain]), median(ratios(l[wayFirst], l[wayRaw])), median(ratios(l[wayFirst], l[wayModprobe])),
			median(beyond(l[wayFirst], l[wayRaw], allowedRatio)))
	}
}

func printStarts(w io.Writer, r *result) {
	if r.Starts == nil {
		return
	}
	fmt.Fprint(w, "\n| ms, nothing in the page cache | modprobe | kmmd started, verified, loaded | kmmd / modprobe |\n|---|---|---|---|\n")
	for _, s := range scenarios() {
		if l := r.Starts[s.name]; l != nil {
			fmt.Fprintf(w, "| %s | %.1f | %.1f | %.2f |\n", s.title, median(l[wayModprobe]), median(l[wayBoot]), median(ratios(l[wayBoot], l[wayModprobe])))
		}
	}
}

func printRest(w io.Writer, r *result) {
	if r.Rest == nil {
		return
	}
	fmt.Fprintf(w, "\nA look with nothing to do, mean of %.0f: %.2f ms CPU, %.0f allocations of %.0f bytes, %.0f system calls (%s); live heap %+d bytes, process %+d bytes.\n",
		r.Rest.Looks, r.Rest.CPU, r.Rest.Allocs, r.Rest.Bytes, r.Rest.Syscalls, r.Rest.Most, r.Rest.Live, r.Rest.RSS)
}

func printIdle(w io.Writer, r *result) {
	if len(r.Idle) == 0 {
		return
	}
	fmt.Fprint(w, "\n| idle | RSS MiB | of that not of files | wake-ups a minute | switches of threads | CPU ms a minute |\n|---|---|---|---|---|---|\n")
	for _, i := range r.Idle {
		fmt.Fprintf(w, "| %s | %.1f | %.1f | %.1f | %.1f | %.1f |\n", i.title(), mib(i.RSS), mib(i.Anon), i.Wakeups, i.Switches, i.CPU)
	}
}

func (i *idleness) title() string {
	if i.Cluster {
		return "with the cluster source"
	}
	return "documents in a directory"
}

func mib(bytes int64) float64 { return float64(bytes) / (1 << 20) }

func (r *report) printDeps(w io.Writer) {
	if len(r.deps) == 0 {
		return
	}
	fmt.Fprint(w, "\n### Dependencies of all modules\n\n| kernel | modules | kmmd deps, ms | modprobe, one process each | modprobe, one process | times faster | than one process |\n|---|---|---|---|---|---|---|\n")
	for _, d := range r.deps {
		fmt.Fprintf(w, "| %s | %d | %.1f | %.0f | %.1f | %.0f | %.1f |\n", d.release, d.modules, median(d.kmmd), median(d.many), median(d.one),
			median(ratios(d.many, d.kmmd)), median(ratios(d.one, d.kmmd)))
	}
}

// The aims.
const (
	allowedRatio = 1.15 // of finit_module, for the module of 1 MB
	allowedMore  = 5.0  // milliseconds beyond that
	allowedLook  = 2.0  // milliseconds of CPU
	allowedRSS   = 20.0 // MiB
	allowedRSSIn = 40.0 // MiB, with the cluster source
	allowedWakes = 6.0  // a minute: timers of a minute, one of each process
	allowedDeps  = 50.0 // times faster
	allowedGrow  = 64 << 10
)

// aim is a figure and what it may be at most; or, of times faster, at least.
type aim struct {
	what       string
	got, limit float64
	atLeast    bool
}

func (a aim) reached() bool {
	if a.atLeast {
		return a.got >= a.limit
	}
	return a.got <= a.limit
}

// aims of one kernel.
func (r *report) aims(k *result) []aim {
	var out []aim
	if l := k.Loads["1m"]; l != nil {
		out = append(out, aim{what: "1 MB: ms beyond 1.15 finit_module", got: median(beyond(l[wayFirst], l[wayRaw], allowedRatio)), limit: allowedMore})
	}
	for _, s := range scenarios() {
		if l := k.Loads[s.name]; l != nil {
			out = append(out, aim{what: s.title + ": kmmd / modprobe", got: median(ratios(l[wayFirst], l[wayModprobe])), limit: 1})
		}
	}
	if k.Rest != nil {
		out = append(out, aim{what: "look with nothing to do: ms CPU", got: k.Rest.CPU, limit: allowedLook},
			aim{what: "look with nothing to do: bytes by which the live heap grew", got: float64(k.Rest.Live), limit: allowedGrow})
	}
	for _, i := range k.Idle {
		limit := allowedRSS
		if i.Cluster {
			limit = allowedRSSIn
		}
		out = append(out, aim{what: "idle, " + i.title() + ": RSS in MiB", got: mib(i.RSS), limit: limit},
			aim{what: "idle, " + i.title() + ": wake-ups a minute", got: i.Wakeups, limit: allowedWakes})
	}
	return out
}

// printAims says which are reached.
func (r *report) printAims(w io.Writer) error {
	fmt.Fprint(w, "\n### Aims\n\n| kernel | | figure | aim | |\n|---|---|---|---|---|\n")
	missed := false
	line := func(kernel string, a aim) {
		sign, word := "<=", "reached"
		if a.atLeast {
			sign = ">="
		}
		if !a.reached() {
			missed, word = true, "missed"
		}
		fmt.Fprintf(w, "| %s | %s | %.2f | %s %g | %s |\n", kernel, a.what, a.got, sign, a.limit, word)
	}
	for i := range r.kernels {
		for _, a := range r.aims(&r.kernels[i]) {
			line(r.kernels[i].Release, a)
		}
	}
	for _, d := range r.deps {
		line(d.release, aim{what: "deps: times faster than modprobe", got: median(ratios(d.many, d.kmmd)), limit: allowedDeps, atLeast: true})
	}
	if missed {
		return errMissed
	}
	return nil
}

// median of an odd number is the one in the middle.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	v := slices.Sorted(slices.Values(values))
	return v[len(v)/2]
}

// ratios are those of the same round.
func ratios(a, b []float64) []float64 {
	out := make([]float64, min(len(a), len(b)))
	for i := range out {
		out[i] = a[i] / b[i]
	}
	return out
}

// beyond is how much a is above b times factor, round by round.
func beyond(a, b []float64, factor float64) []float64 {
	out := make([]float64, min(len(a), len(b)))
	for i := range out {
		out[i] = a[i] - factor*b[i]
	}
	return out
}
