// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/test/cluster/lab"
)

const (
	byWatcher = "system:serviceaccount:kmm-system:kmm-watcher"
	byAgent   = "system:serviceaccount:kmm-system:kmmd"
)

// sample is a stretch in which n nodes were written about in the usual way, each
// a second after the one before it.
func sample(n int) *stretch {
	st := &stretch{from: time.Unix(1000, 0), to: time.Unix(2000, 0), cpu: map[string]time.Duration{watcher: 4 * time.Second}}
	st.memory = map[string]memory{watcher: {now: 50 << 20, peak: 60 << 20}}
	for i := range n {
		node := fmt.Sprint("n", i)
		for j, r := range []lab.Request{
			{User: byWatcher, Verb: "create", Resource: "nodemodulesconfigs"},
			{User: byAgent, Verb: "patch", Resource: "nodemodulesconfigs", Subresource: "status"},
			{User: byWatcher, Verb: "patch", Resource: "nodes"},
			{User: byWatcher, Verb: "create", Resource: "events"},
			{User: "kubernetes-admin", Verb: "patch", Resource: "nodes"},
		} {
			r.Name, r.Code, r.Time = node, 200, st.from.Add(time.Duration(i)*time.Second+time.Duration(j)*100*time.Millisecond)
			st.writes = append(st.writes, r)
		}
	}
	return st
}

func TestStretch(t *testing.T) {
	st := sample(3)
	assert.Equal(t, 12, st.count(), "somebody else's do not count")
	assert.InDelta(t, 4, st.perNode(3), 1e-9)
	assert.Equal(t, 2*time.Second, st.until(aboutSpec))
	assert.Equal(t, 2200*time.Millisecond, st.until(aboutLabels))
	assert.Zero(t, st.until(aboutModule))
	st.writes = append(st.writes,
		lab.Request{User: byWatcher, Resource: "events", Namespace: namespace, Code: 201},
		lab.Request{User: byWatcher, Resource: "modules", Code: 409},
		lab.Request{User: byWatcher, Resource: "nodes", Name: "n1", Code: 200, Time: st.from.Add(5 * time.Second)})
	assert.Equal(t, map[int]int{409: 1}, st.refused())
	assert.Equal(t, 2, st.count(aboutModule), "its own events, too")
	median, longest := st.away()
	assert.Zero(t, median)
	assert.Equal(t, 3800*time.Millisecond, longest)
}

func TestReport(t *testing.T) {
	r := &result{nodes: 3, load: sample(3), change: sample(3), rest: sample(0), beats: sample(0), off: sample(10), on: sample(10), again: sample(0), connect: sample(0)}
	r.off.cpu[watcher] = 5 * time.Second
	var out strings.Builder
	table(&out, options{modules: 20, rest: 2 * time.Minute}, []*result{r, r})
	assert.Contains(t, out.String(), "\n| | 3 nodes | 3 nodes |\n|---|---|---|\n| **20 Modules applied**: all NodeModulesConfigs written, s | 2.0 | 2.0 |\n")
	assert.Contains(t, out.String(), "| writes per node | 4.00 | 4.00 |\n")
	assert.Contains(t, out.String(), "| **rest for 120 s**: writes | 0 | 0 |\n")
	assert.Contains(t, out.String(), "| CPU of the watcher, ms | 100.0 | 100.0 |\n", "of each node, without what it takes at rest")
	assert.Empty(t, misses([]*result{r}))

	r.load.writes = append(r.load.writes, lab.Request{User: byAgent, Resource: "nodemodulesconfigs", Subresource: "status"})
	r.rest = sample(1)
	r.again.memory[watcher] = memory{peak: 301 << 20}
	missed := misses([]*result{r})
	require.Len(t, missed, 3)
	assert.Equal(t, "3 nodes: 4.333 writes per node for the first load, more than 4", missed[0])
	assert.Equal(t, "3 nodes: 4 writes at rest", missed[1])
	assert.Equal(t, "3 nodes: the watcher took 301 MiB, more than 300", missed[2])
}

// TestOurselves: what is said of a process is so.
func TestOurselves(t *testing.T) {
	before, err := cpuOf(os.Getpid())
	require.NoError(t, err)
	for deadline := time.Now().Add(20 * time.Millisecond); time.Now().Before(deadline); {
		continue // at work
	}
	after, err := cpuOf(os.Getpid())
	require.NoError(t, err)
	assert.Greater(t, after, before)
	m, err := memoryOf(os.Getpid())
	require.NoError(t, err)
	assert.Greater(t, m.now, int64(1<<20))
	assert.GreaterOrEqual(t, m.peak, m.now)
}
