// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// rest is what it costs to look when there is nothing to do: four Modules, 13
// modules, one of them in the place of an in-tree one.
type rest struct {
	Looks    float64 `json:"looks"`    // reconciles that took place
	CPU      float64 `json:"cpu"`      // milliseconds for each
	Bytes    float64 `json:"bytes"`    // allocated by each
	Allocs   float64 `json:"allocs"`   // so many
	Live     int64   `json:"live"`     // bytes by which the live heap grew from the first tenth to the end
	RSS      int64   `json:"rss"`      // bytes by which the process grew, likewise
	Syscalls float64 `json:"syscalls"` // of each
	Most     string  `json:"most"`     // the most frequent of them
}

func (g *guest) atRest(o options) (*rest, error) {
	d, err := g.together()
	if err != nil {
		return nil, err
	}
	tenth := max(o.looks/10, 1)
	if err := g.look(d, tenth); err != nil { // caches are filled, the heap has its size
		return nil, err
	}
	r := &rest{}
	if err := r.count(g, d, o.looks); err != nil {
		return nil, err
	}
	if err := r.trace(g, d, tenth); err != nil {
		return nil, err
	}
	return r, g.apart(d)
}

// look makes kmmd look n times: an event about a module that says nothing new.
func (g *guest) look(d *daemon, n int) error {
	for range n {
		if err := os.WriteFile("/sys/module/kbn_small/uevent", []byte("add"), 0o200); err != nil {
			return err
		}
		if err := d.rest(20 * time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

func (r *rest) count(g *guest, d *daemon, n int) error {
	before, err := d.metrics()
	if err != nil {
		return err
	}
	cpu, err := d.cpu()
	if err != nil {
		return err
	}
	rss := status([]int{d.pid}, false, "VmRSS")
	if err := g.look(d, n); err != nil {
		return err
	}
	used, err := d.cpu()
	if err != nil {
		return err
	}
	r.RSS = (status([]int{d.pid}, false, "VmRSS") - rss) << 10
	after, err := d.metrics()
	if err != nil {
		return err
	}
	delta := func(name string) float64 { return after[name] - before[name] }
	if r.Looks = delta("kmmd_reconciles_total"); r.Looks == 0 {
		return errors.New("kmmd has not looked at all")
	}
	r.CPU = (used - cpu).Seconds() * 1000 / r.Looks
	r.Bytes, r.Allocs = delta("go_memstats_alloc_bytes_total")/r.Looks, delta("go_memstats_mallocs_total")/r.Looks
	// The collector aims at twice what it found alive last.
	r.Live = int64(delta("go_memstats_next_gc_bytes") / 2)
	return nil
}

// straceDir is where the guest has strace with the libraries it loads.
const straceDir = "/src/" + straceFiles

// trace counts system calls with strace.
func (r *rest) trace(g *guest, d *daemon, n int) error {
	const out = "/tmp/strace.txt"
	before, err := d.metrics()
	if err != nil {
		return err
	}
	strace := exec.Command(straceDir+"/usr/bin/strace", "-f", "-c", "-q", "-o", out, "-p", strconv.Itoa(d.pid))
	strace.Env = append(os.Environ(), "LD_LIBRARY_PATH="+straceDir+"/lib/x86_64-linux-gnu")
	strace.Stderr = os.Stderr
	if err := strace.Start(); err != nil {
		return err
	}
	for range 100 {
		if text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.pid)); err != nil || !strings.Contains(string(text), "TracerPid:\t0\n") {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err := g.look(d, n); err != nil {
		return err
	}
	if err := strace.Process.Signal(syscall.SIGINT); err != nil {
		return err
	}
	_ = strace.Wait() // it ends by that signal
	after, err := d.metrics()
	if err != nil {
		return err
	}
	looks := after["kmmd_reconciles_total"] - before["kmmd_reconciles_total"]
	counts, err := readStrace(out)
	if err != nil || looks == 0 || len(counts) == 0 {
		return fmt.Errorf("strace: %v looks, %d kinds of calls: %w", looks, len(counts), err)
	}
	r.sum(counts, looks)
	return nil
}

type syscalls struct {
	name  string
	count float64
}

func (r *rest) sum(counts []syscalls, looks float64) {
	slices.SortFunc(counts, func(a, b syscalls) int { return int(b.count - a.count) })
	var most []string
	for i, c := range counts {
		r.Syscalls += c.count / looks
		if i < 8 {
			most = append(most, fmt.Sprintf("%s %.1f", c.name, c.count/looks))
		}
	}
	r.Most = strings.Join(most, ", ")
}

// readStrace reads the table of strace -c:
//
//	% time     seconds  usecs/call     calls    errors syscall
//	------ ----------- ----------- --------- --------- ----------------
//	 25,00    0,000012           1        12         2 openat
func readStrace(path string) ([]syscalls, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var out []syscalls
	for s := bufio.NewScanner(f); s.Scan(); {
		fields := strings.Fields(s.Text())
		if len(fields) < 5 || fields[len(fields)-1] == "total" {
			continue
		}
		if n, err := strconv.ParseFloat(fields[3], 64); err == nil {
			out = append(out, syscalls{fields[len(fields)-1], n})
		}
	}
	return out, nil
}
