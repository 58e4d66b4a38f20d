// SPDX-License-Identifier: Apache-2.0

package soak

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// sample is what kmmd uses after a step; sizes in bytes.
type sample map[string]float64

// figures are the samples of a run.
type figures struct {
	all   []sample
	alive int // how many when the process that lives now began
}

// limits say what must not grow: the median of the last quarter of the samples
// may exceed that of the second one, after all has warmed up, by a tenth and this
// much. What belongs to the process is judged over the life of the last one.
func limits() map[string]float64 {
	return map[string]float64{
		"rss": 2 << 20, "heap": 1 << 20, "goroutines": 2, "fds": 2, "threads": 4,
		"state": 256 << 10, "state files": 40, "run": 16 << 10,
	}
}

// ofTheHost are the figures that outlive a process.
func ofTheHost() []string { return []string{"state", "state files", "run"} }

// enough is how many samples can be judged.
const enough = 200

// sample reads the figures of the process from /proc, those of the Go runtime from
// its own metrics, and the sizes of its directories.
func (s *soak) sample() sample {
	s.Helper()
	out := sample{}
	proc := fmt.Sprintf("/proc/%d/", s.daemon.cmd.Process.Pid)
	status, err := os.ReadFile(proc + "status")
	require.NoError(s, err)
	for line := range strings.Lines(string(status)) {
		f := strings.Fields(line)
		switch f[0] {
		case "VmRSS:":
			kb, err := strconv.Atoi(f[1])
			require.NoError(s, err)
			out["rss"] = float64(kb) * 1024
		case "Threads:":
			n, err := strconv.Atoi(f[1])
			require.NoError(s, err)
			out["threads"] = float64(n)
		}
	}
	fds, err := os.ReadDir(proc + "fd")
	require.NoError(s, err)
	out["fds"] = float64(len(fds))
	s.requireNoChildren(proc)
	m := metrics()
	out["heap"], out["goroutines"] = m["go_memstats_heap_inuse_bytes"], m["go_goroutines"]
	out["state"], out["state files"] = usage(s, s.host.path("state"))
	out["run"], _ = usage(s, s.host.path("run"))
	return out
}

// requireNoChildren: kmmd has no child, once it has come to rest, but the one that waits for the next load.
func (s *soak) requireNoChildren(proc string) {
	s.Helper()
	require.EventuallyWithT(s, func(c *assert.CollectT) {
		lists, err := filepath.Glob(proc + "task/*/children") // a thread knows those only that it has started itself
		require.NoError(c, err)
		require.NotEmpty(c, lists)
		for _, list := range lists {
			children, _ := os.ReadFile(list) // the thread may have ended
			for _, pid := range strings.Fields(string(children)) {
				name, err := os.ReadFile("/proc/" + pid + "/cmdline")
				require.NoError(c, err)
				require.Equal(c, "kmmd: waits\x00", string(name))
			}
		}
	}, time.Minute, 10*time.Millisecond)
}

// usage is how much the files of a directory hold, and how many there are.
func usage(t testing.TB, dir string) (bytes, files float64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			bytes, files = bytes+float64(info.Size()), files+1
		}
		return err
	})
	if err != nil && !os.IsNotExist(err) {
		assert.NoError(t, err)
	}
	return bytes, files
}

func (f *figures) add(s sample) { f.all = append(f.all, s) }

// born notes that another process begins.
func (f *figures) born() { f.alive = len(f.all) }

func (f *figures) last() string { return f.all[len(f.all)-1].String() }

func (s sample) String() string {
	var words []string
	for _, name := range slices.Sorted(maps.Keys(s)) {
		unit := ""
		v := s[name]
		if v >= 10_000 {
			unit, v = " KiB", v/1024
		}
		words = append(words, fmt.Sprintf("%s %.0f%s", name, v, unit))
	}
	return strings.Join(words, ", ")
}

// judge fails the test for each figure that has grown, and tells all.
func (f *figures) judge(t *testing.T) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(limits())) {
		samples := f.all[f.alive:]
		if slices.Contains(ofTheHost(), name) {
			samples = f.all
		}
		values := make([]float64, len(samples))
		for i, s := range samples {
			values[i] = s[name]
		}
		if len(values) < enough {
			t.Logf("%s: %d samples are too few to judge", name, len(values))
			continue
		}
		second, last := quarters(values)
		t.Logf("%s: median of %d samples %s in the second quarter, %s in the last, at most %s", name, len(values),
			sample{name: second}, sample{name: last}, sample{name: slices.Max(values)})
		assert.True(t, flat(values, limits()[name]), "%s grows: %.0f, then %.0f", name, second, last)
	}
}

// quarters are the medians of the second and of the last quarter.
func quarters(values []float64) (second, last float64) {
	q := len(values) / 4
	return median(values[q : 2*q]), median(values[len(values)-q:])
}

func flat(values []float64, slack float64) bool {
	second, last := quarters(values)
	return last <= 1.1*second+slack
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

func TestFlat(t *testing.T) {
	tests := []struct {
		name string
		of   func(i int) float64
		want bool
	}{
		{"constant", func(int) float64 { return 100 }, true},
		{"saw", func(i int) float64 { return float64(100 + i%50) }, true},
		{"warms up", func(i int) float64 { return min(float64(i), 100) }, true},
		{"grows slowly", func(i int) float64 { return 100 + float64(i)/10 }, false},
		{"grows at the end", func(i int) float64 {
			if i > 800 {
				return 150
			}
			return 100
		}, false},
		{"one peak", func(i int) float64 {
			if i == 900 {
				return 1000
			}
			return 100
		}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var values []float64
			for i := range 1000 {
				values = append(values, tt.of(i))
			}
			assert.Equal(t, tt.want, flat(values, 5))
		})
	}
}
