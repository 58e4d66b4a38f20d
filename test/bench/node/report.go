// SPDX-License-Identifier: Apache-2.0

package main

import (
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

func (r *report) print(w io.Writer) error {
	for i := range r.kernels {
		printLoads(w, &r.kernels[i])
	}
	return nil
}

func printLoads(w io.Writer, r *result) {
	fmt.Fprintf(w, "\n### Linux %s\n\n| | finit_module | modprobe | kmmd, first | kmmd, again | kmmd/finit | kmmd/modprobe | 1.15 finit + |\n|---|---|---|---|---|---|---|---|\n", r.Release)
	for _, s := range scenarios() {
		l := r.Loads[s.name]
		if l == nil {
			continue
		}
		fmt.Fprintf(w, "| %s | %.1f | %.1f | %.1f | %.1f | %.2f | %.2f | %.1f |\n", s.title, median(l[wayRaw]), median(l[wayModprobe]),
			median(l[wayFirst]), median(l[wayAgain]), median(ratios(l[wayFirst], l[wayRaw])), median(ratios(l[wayFirst], l[wayModprobe])),
			median(beyond(l[wayFirst], l[wayRaw], 1.15)))
	}
	fmt.Fprintf(w, "%+v %+v\n%+v %+v\n", r.Speed, r.Starts, r.Rest, r.Idle)
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
