// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"time"
)

// row is all runs of one tool with one image over one link.
type row struct {
	tool  tool
	image *image
	runs  []figures
}

// median is figure by figure.
func (r row) median() figures {
	return figures{
		Wall:    medianOf(r.runs, func(f figures) time.Duration { return f.Wall }),
		CPU:     medianOf(r.runs, func(f figures) time.Duration { return f.CPU }),
		RSS:     medianOf(r.runs, func(f figures) int64 { return f.RSS }),
		Fetched: medianOf(r.runs, func(f figures) int64 { return f.Fetched }),
		Written: medianOf(r.runs, func(f figures) int64 { return f.Written }),
	}
}

func medianOf[T cmp.Ordered](runs []figures, of func(figures) T) T {
	all := make([]T, 0, len(runs))
	for _, f := range runs {
		all = append(all, of(f))
	}
	slices.Sort(all)
	return all[len(all)/2]
}

// spread is the fastest and the slowest run.
func (r row) spread() (least, most time.Duration) {
	for i, f := range r.runs {
		if i == 0 || f.Wall < least {
			least = f.Wall
		}
		most = max(most, f.Wall)
	}
	return least, most
}

// table prints the rows of one image over one link, and how they compare.
func table(w io.Writer, linkName string, rows []row) {
	i := rows[0].image
	packed, unpacked := i.size()
	fmt.Fprintf(w, "\n### %s, %s\n\n%.0f MB compressed, %.0f MB unpacked. The layer with the modules has %.1f MB, the one above it, with firmware, %.1f MB.\n\n",
		i.name, linkName, mb(packed), mb(unpacked), mb(i.modules().meta.Size), mb(i.firmware().meta.Size))
	fmt.Fprintln(w, "| | wall s | least-most | CPU s | RSS MiB | fetched MB | written MB | times faster | fetched / needed |")
	fmt.Fprintln(w, "|---|---|---|---|---|---|---|---|---|")
	var fastest time.Duration
	for _, r := range rows {
		if wall := r.median().Wall; r.tool.peer && (fastest == 0 || wall < fastest) {
			fastest = wall
		}
	}
	for _, r := range rows {
		m := r.median()
		least, most := r.spread()
		faster, needed := "", ""
		if !r.tool.peer && fastest > 0 {
			faster = fmt.Sprintf("%.1f", fastest.Seconds()/m.Wall.Seconds())
		}
		if !r.tool.warm {
			needed = fmt.Sprintf("%.2f", float64(m.Fetched)/float64(r.image.holding(r.tool)))
		}
		fmt.Fprintf(w, "| %s | %.2f | %.2f-%.2f | %.2f | %.1f | %.1f | %.0f | %s | %s |\n", r.tool.name, m.Wall.Seconds(),
			least.Seconds(), most.Seconds(), m.CPU.Seconds(), float64(m.RSS)/(1<<20), mb(m.Fetched), mb(m.Written), faster, needed)
	}
}

func mb(n int64) float64 { return float64(n) / 1e6 }
