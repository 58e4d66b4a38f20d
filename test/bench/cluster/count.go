// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/kmm-node/kmmd/test/cluster/lab"
)

// stretch is what happened between two moments.
type stretch struct {
	from, to time.Time
	writes   []lab.Request // of everybody
	reads    int           // by everybody; watches are counted when they end
	cpu      map[string]time.Duration
	memory   map[string]memory // in the end
}

// The processes that are measured.
const (
	watcher   = "kmm-watcher"
	agents    = "agents"
	apiServer = "kube-apiserver"
	etcd      = "etcd"
)

// measure does something, which must be over when do returns.
func (s *stage) measure(ctx context.Context, what string, do func() error) (*stretch, error) {
	began := s.pids()
	before, err := cpuOfAll(began)
	if err != nil {
		return nil, err
	}
	mark, err := s.cluster.Mark(ctx)
	if err != nil {
		return nil, err
	}
	written, read, err := s.counts(ctx)
	if err != nil {
		return nil, err
	}
	st := &stretch{from: time.Now(), cpu: map[string]time.Duration{}, memory: map[string]memory{}}
	if err := do(); err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	st.to = time.Now()
	pids := s.pids()
	after, err := cpuOfAll(pids)
	if err != nil {
		return nil, err
	}
	if st.writes, err = s.cluster.Requests(ctx, mark); err != nil {
		return nil, err
	}
	writtenThen, readThen, err := s.counts(ctx)
	if err != nil {
		return nil, err
	}
	st.reads = readThen - read
	if n := writtenThen - written; n != len(st.writes) {
		return nil, fmt.Errorf("%s: the API server's metrics have %d writes, and its audit log %d", what, n, len(st.writes))
	}
	for name, pid := range pids {
		st.cpu[name] = after[name]
		if began[name] == pid {
			st.cpu[name] -= before[name]
		}
		if st.memory[name], err = memoryOf(pid); err != nil {
			return nil, err
		}
	}
	say("%s: %.1f s, %d writes, %d reads", what, st.to.Sub(st.from).Seconds(), len(st.writes), st.reads)
	return st, nil
}

func (s *stage) pids() map[string]int {
	out := map[string]int{apiServer: s.cluster.PID(apiServer), etcd: s.cluster.PID(etcd)}
	for name, p := range map[string]*process{watcher: s.watcher, agents: s.agents} {
		if p != nil {
			out[name] = p.pid()
		}
	}
	return out
}

func cpuOfAll(pids map[string]int) (map[string]time.Duration, error) {
	out := map[string]time.Duration{}
	for name, pid := range pids {
		d, err := cpuOf(pid)
		if err != nil {
			return nil, err
		}
		out[name] = d
	}
	return out, nil
}

// counts are the requests that the API server's metrics have, without what the
// audit log leaves out and what watches the measurement itself.
func (s *stage) counts(ctx context.Context) (writes, reads int, err error) {
	list, err := s.cluster.Counts(ctx)
	if err != nil {
		return 0, 0, err
	}
	for _, c := range list {
		switch {
		case slices.Contains([]string{"coordination.k8s.io", "authorization.k8s.io", "authentication.k8s.io"}, c.Group):
		case slices.Contains([]string{"POST", "PUT", "PATCH", "APPLY", "DELETE", "DELETECOLLECTION"}, c.Verb):
			writes += c.N
		case c.Resource != "":
			reads += c.N
		}
	}
	return writes, reads, nil
}

// What a write is about. Together the first four are a node's.
const (
	aboutSpec   = "NodeModulesConfig"
	aboutStatus = "its status"
	aboutLabels = "labels"
	aboutEvent  = "Event"
	aboutModule = "Module"
	aboutOther  = "other"
)

// about sorts the watcher's and agents' writes; "" is somebody else's.
func about(r *lab.Request) string {
	switch r.User {
	case "system:serviceaccount:kmm-system:kmm-watcher", "system:serviceaccount:kmm-system:kmmd":
	default:
		return ""
	}
	switch r.Resource {
	case "nodemodulesconfigs":
		if r.Subresource == "status" {
			return aboutStatus
		}
		return aboutSpec
	case "nodes":
		return aboutLabels
	case "events":
		if r.Namespace == namespace {
			return aboutModule
		}
		return aboutEvent
	case "modules":
		return aboutModule
	}
	return aboutOther
}

// count of the watcher's and agents' writes about some things, or all.
func (st *stretch) count(what ...string) int {
	n := 0
	for i := range st.writes {
		if a := about(&st.writes[i]); a != "" && (len(what) == 0 || slices.Contains(what, a)) {
			n++
		}
	}
	return n
}

// perNode is how many writes about nodes there were for each of n.
func (st *stretch) perNode(n int) float64 {
	return float64(st.count(aboutSpec, aboutStatus, aboutLabels, aboutEvent)) / float64(n)
}

// refused counts those of our writes that were not carried out.
func (st *stretch) refused() map[int]int {
	out := map[int]int{}
	for i := range st.writes {
		if r := &st.writes[i]; about(r) != "" && r.Code >= 300 {
			out[r.Code]++
		}
	}
	return out
}

// until is when the last write about something was answered, from the beginning.
func (st *stretch) until(what string) time.Duration {
	last := st.from
	for i := range st.writes {
		if r := &st.writes[i]; about(r) == what && r.Time.After(last) {
			last = r.Time
		}
	}
	return last.Sub(st.from)
}

// away is how long nodes were without their label, from the write that took it
// away to the one that brought it back: the median and the longest.
func (st *stretch) away() (median, longest time.Duration) {
	off, on := map[string]time.Time{}, map[string]time.Time{}
	for i := range st.writes {
		r := &st.writes[i]
		if about(r) != aboutLabels {
			continue
		}
		if _, ok := off[r.Name]; !ok {
			off[r.Name] = r.Time
		}
		on[r.Name] = r.Time
	}
	var all []time.Duration
	for name, at := range off {
		all = append(all, on[name].Sub(at))
	}
	if len(all) == 0 {
		return 0, 0
	}
	slices.Sort(all)
	return all[len(all)/2], all[len(all)-1]
}
