// SPDX-License-Identifier: Apache-2.0

package memory

import (
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// inFiles is how much of this process' memory is that of files, in kB.
func inFiles(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile("/proc/self/status")
	require.NoError(t, err)
	_, text2, ok := strings.Cut(string(text), "RssFile:")
	require.True(t, ok)
	n, err := strconv.Atoi(strings.Fields(text2)[0])
	require.NoError(t, err)
	return n
}

// TestGiveBack: the program goes on, with less.
func TestGiveBack(t *testing.T) {
	exe, err := os.ReadFile("/proc/self/exe") // into the page cache
	require.NoError(t, err)
	require.NotEmpty(t, exe)
	before := inFiles(t)
	GiveBack()
	assert.Less(t, inFiles(t), before)
}

// alone runs the test that calls it in a process of its own, as it is about the whole process, and says whether this is that one.
func alone(t *testing.T) bool {
	t.Helper()
	const child = "KMMD_TEST_ALONE"
	if os.Getenv(child) != "" {
		return true
	}
	run := exec.Command(os.Args[0], "-test.v", "-test.run=^"+t.Name()+"$")
	run.Env = append(os.Environ(), child+"=yes")
	out, err := run.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "--- PASS: "+t.Name())
	return false
}

// TestCollect: the collector runs early, and not again before it is needed.
func TestCollect(t *testing.T) {
	if !alone(t) {
		return
	}
	runs := func() uint32 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.NumGC
	}
	debug.FreeOSMemory()
	before := runs()
	Collect()
	assert.Equal(t, before, runs(), "there is nothing to be collected")
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	for range int(m.NextGC-m.HeapAlloc) * 3 / 4 / 4096 {
		garbage = make([]byte, 4096)
	}
	require.Equal(t, before, runs(), "it would not run by itself yet")
	Collect()
	assert.Equal(t, before+1, runs())
	Collect()
	assert.Equal(t, before+1, runs())
}

// TestCollectSeldom: what the environment says counts more.
func TestCollectSeldom(t *testing.T) {
	if !alone(t) {
		return
	}
	debug.SetGCPercent(100)
	debug.SetMemoryLimit(1 << 40)
	t.Setenv("GOGC", "50") // by which the runtime has gone from the beginning
	t.Setenv("GOMEMLIMIT", "1TiB")
	CollectSeldom()
	assert.Equal(t, 100, debug.SetGCPercent(100))
	assert.EqualValues(t, 1<<40, debug.SetMemoryLimit(-1))
	t.Setenv("GOGC", "")
	t.Setenv("GOMEMLIMIT", "")
	CollectSeldom()
	assert.Equal(t, seldom, debug.SetGCPercent(100))
	assert.EqualValues(t, roomy, debug.SetMemoryLimit(-1))
}

// TestAfterCollections: each one is told.
func TestAfterCollections(t *testing.T) {
	told := make(chan struct{}, 1)
	AfterCollections(func() {
		select {
		case told <- struct{}{}:
		default: // nobody asks any more, and the runtime's goroutine must not wait
		}
	})
	for range 3 {
		for waits := true; waits; { // the one in which it is told may not find the next sentinel yet
			runtime.GC()
			select {
			case <-told:
				waits = false
			default:
				runtime.Gosched()
			}
		}
	}
}

var garbage []byte // where the compiler does not see that nobody reads it

func TestNoHugePages(t *testing.T) {
	NoHugePages()
	now, err := unix.PrctlRetInt(unix.PR_GET_THP_DISABLE, 0, 0, 0, 0)
	require.NoError(t, err)
	assert.Equal(t, 1, now)
}

func TestConstant(t *testing.T) {
	const never = "Rss: 4 kB\nAnonymous:             0 kB\nSwap: 0 kB\n"
	for head, want := range map[string]bool{
		"00400000-00fb8000 r-xp 00000000 fe:00 1835087    /usr/bin/kmmd\n" + never:                              true,
		"00fb8000-01b81000 r--p 00bb8000 fe:00 1835087    /usr/bin/kmmd\n" + never:                              true,
		"00fb8000-01b81000 r--p 00bb8000 fe:00 1835087    /usr/bin/kmmd\nAnonymous:         4 kB\nSwap: 0 kB\n": false,
		"01b81000-01c1b000 rw-p 01781000 fe:00 1835087    /usr/bin/kmmd\n" + never:                              false,
		"10b739000000-10b739800000 rw-p 00000000 00:00 0 \n" + never:                                            false,
		"7ffc3bffc000-7ffc3c000000 r--p 00000000 00:00 0       [vvar]\n" + never:                                false,
		"7f975d000000-7f975d001000 r--s 00000000 fe:00 7       /etc/some\n" + never:                             false,
		"x-y r-xp 00000000 fe:00 1835087 /usr/bin/kmmd\n" + never:                                               false,
		"2-1 r-xp 00000000 fe:00 1835087 /usr/bin/kmmd\n" + never:                                               false,
		"00fb8000-01b81000 r--p 00bb8000 fe:00 1835087    /usr/bin/kmmd\nAnonymous:         0 kB\nSwap: 4 kB\n": false,
		never: false,
	} {
		assert.Equal(t, want, len(constant(head)) > 0, head)
	}
	assert.Equal(t, []mapping{{0x1000, 0x2000}}, constant("00001000-00002000 r-xp 0 fe:00 18 /x\n"+never))
}
