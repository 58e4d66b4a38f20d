// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// prepared returns a host whose child waits, and that child.
func prepared(t *testing.T) (*Host, int) {
	t.Helper()
	h := emptyTree(t)
	h.exe = "/proc/self/exe"
	require.NoError(t, h.Prepare())
	t.Cleanup(h.Close)
	return h, h.waits.process.Pid
}

func cmdline(t *testing.T, pid int) string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	require.NoError(t, err)
	return string(text)
}

// TestWaitingChild: one process for all calls, which says what one of its own would say.
func TestWaitingChild(t *testing.T) {
	cold := emptyTree(t)
	cold.exe = "/proc/self/exe"
	h, pid := prepared(t)
	require.NoError(t, h.Prepare())
	assert.Equal(t, pid, h.waits.process.Pid, "one is enough")
	for _, long := range []int{0, 10, 1 << 18} {
		r := LoadRequest{Name: "dummy", File: moduleFile(t), Parameters: strings.Repeat("x", long)}
		want := cold.Load(t.Context(), r)
		require.Error(t, want)
		require.EqualError(t, h.Load(t.Context(), r), want.Error())
		want = cold.Unload(t.Context(), "nosuchmodule", 0)
		require.Error(t, want)
		require.EqualError(t, h.Unload(t.Context(), "nosuchmodule", 0), want.Error())
		assert.Equal(t, pid, h.waits.process.Pid)
	}
	assert.Equal(t, "kmmd: waits\x00", cmdline(t, pid))
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	require.NoError(t, err)
	assert.Contains(t, string(status), "NoNewPrivs:\t1\n")

	// Longer than it takes: a process of its own.
	r := LoadRequest{Name: "dummy", File: moduleFile(t), Parameters: strings.Repeat("x", maxOrder)}
	require.Error(t, h.Load(t.Context(), r))
	assert.Equal(t, pid, h.waits.process.Pid)

	h.Close()
	require.Eventually(t, func() bool { return unix.Kill(pid, 0) == unix.ESRCH }, time.Minute, time.Millisecond, "it ends, and is reaped")
	require.Error(t, h.Unload(t.Context(), "nosuchmodule", 0))
}

// TestWaitingChildMemory: it collects no garbage while it rests, and does not grow with what it is asked.
func TestWaitingChildMemory(t *testing.T) {
	h, pid := prepared(t)
	const orders, size, allowed = 800, 1 << 18, 200 << 10 // kB; what counts races needs several bytes for each
	r := LoadRequest{Name: "dummy", File: moduleFile(t), Parameters: strings.Repeat("x", size)}
	first := h.Load(t.Context(), r)
	require.Error(t, first)
	before := inMemory(t, pid)
	for range orders {
		require.EqualError(t, h.Load(t.Context(), r), first.Error(), "or the child is gone")
	}
	assert.Less(t, inMemory(t, pid)-before, allowed)
	assert.Equal(t, pid, h.waits.process.Pid)
}

// inMemory is what a process has in memory that is of no file, in kB.
func inMemory(t *testing.T, pid int) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	require.NoError(t, err)
	_, rest, ok := strings.Cut(string(status), "RssAnon:")
	require.True(t, ok)
	n, err := strconv.Atoi(strings.Fields(rest)[0])
	require.NoError(t, err)
	return n
}

// TestWaitingChildGone: killed while it waited, it is not missed.
func TestWaitingChildGone(t *testing.T) {
	h, pid := prepared(t)
	require.NoError(t, unix.Kill(pid, unix.SIGKILL))
	require.Eventually(t, func() bool { return unix.Kill(pid, 0) == unix.ESRCH }, time.Minute, time.Millisecond)
	want := (&Host{root: h.root, exe: h.exe}).Unload(t.Context(), "nosuchmodule", 0)
	require.EqualError(t, h.Unload(t.Context(), "nosuchmodule", 0), want.Error())
	assert.Nil(t, h.waits)
}

// TestWaitingChildStuck: what does not answer is killed and not asked again.
func TestWaitingChildStuck(t *testing.T) {
	h, pid := prepared(t)
	require.NoError(t, unix.Kill(pid, unix.SIGSTOP))
	err := h.Unload(t.Context(), "dummy", 50*time.Millisecond)
	require.EqualError(t, err, "unload dummy: kernel did not answer within 50ms: no such module in the kernel")
	assert.Nil(t, h.waits)
	require.Eventually(t, func() bool { return unix.Kill(pid, 0) == unix.ESRCH }, time.Minute, time.Millisecond, "it is killed and reaped")
}

// TestWaitingChildCrash: what it says at its end is in the error.
func TestWaitingChildCrash(t *testing.T) {
	for name, tt := range map[string]struct{ script, want string }{
		"words":   {"echo panic: x; exit 2", `unload dummy: child ended without an answer: exit status 2: "panic: x"`},
		"silence": {"exit 3", "unload dummy: child ended without an answer: exit status 3"},
	} {
		t.Run(name, func(t *testing.T) {
			h := scriptHost(t, "head -c 1 >/dev/null; "+tt.script)
			require.NoError(t, h.Prepare())
			require.EqualError(t, h.Unload(t.Context(), "dummy", time.Minute), tt.want)
			assert.Nil(t, h.waits)
		})
	}
}

// TestWaitingChildNamed: ps(1) shows what it is at, also when that hangs.
func TestWaitingChildNamed(t *testing.T) {
	h, pid := prepared(t)
	// A pipe for a file: the kernel refuses it, be it at once; the name is there all the same while it is stopped.
	require.NoError(t, unix.Kill(pid, unix.SIGSTOP))
	ended := make(chan error, 1)
	go func() { ended <- h.Unload(t.Context(), strings.Repeat("m", maxName), time.Minute) }()
	require.NoError(t, unix.Kill(pid, unix.SIGCONT))
	require.Error(t, <-ended)
	assert.Equal(t, "kmmd: waits\x00", cmdline(t, pid))
	env, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/environ")
	require.NoError(t, err)
	assert.Empty(t, string(env))
	group, err := syscall.Getpgid(pid)
	require.NoError(t, err)
	assert.Equal(t, pid, group, "an interrupt from the terminal does not reach it")
}

// TestFileIsKept: what a call did not come back with stays open, others do not.
func TestFileIsKept(t *testing.T) {
	h, pid := prepared(t)
	require.Error(t, h.Load(t.Context(), LoadRequest{Name: "dummy", File: moduleFile(t)}))
	assert.Empty(t, h.kept)
	require.NoError(t, unix.Kill(pid, unix.SIGSTOP))
	file := moduleFile(t)
	require.ErrorIs(t, h.Load(t.Context(), LoadRequest{Name: "dummy", File: file, Timeout: 50 * time.Millisecond}), ErrTimeout)
	require.Len(t, h.kept, 1)
	want, err := file.Stat()
	require.NoError(t, err)
	got, err := h.kept[0].Stat()
	require.NoError(t, err)
	assert.True(t, os.SameFile(want, got))

	crash := scriptHost(t, "exit 3")
	require.Error(t, crash.Load(t.Context(), LoadRequest{Name: "dummy", File: moduleFile(t)}))
	assert.Len(t, crash.kept, 1)
}

// TestFileOfALostCall: the kernel is given such a file once more only as another one.
func TestFileOfALostCall(t *testing.T) {
	file := moduleFile(t)
	h := scriptHost(t, `readlink /proc/self/fd/3 >&2; exit 3`)
	err := h.Load(t.Context(), LoadRequest{Name: "dummy", File: file})
	require.ErrorContains(t, err, file.Name())
	err = h.Load(t.Context(), LoadRequest{Name: "dummy", File: file})
	require.ErrorContains(t, err, "/memfd:dummy")
	require.ErrorContains(t, h.Load(t.Context(), LoadRequest{Name: "dummy", File: moduleFile(t)}), "exit status 3")
}

func requests(t *testing.T, names ...string) []LoadRequest {
	t.Helper()
	var rs []LoadRequest
	for _, name := range names {
		rs = append(rs, LoadRequest{Name: name, File: moduleFile(t), Timeout: time.Minute})
	}
	return rs
}

// TestLoadAll: the first is refused, the others are not tried, and the child goes on.
func TestLoadAll(t *testing.T) {
	h, pid := prepared(t)
	want := h.Load(t.Context(), requests(t, "a")[0])
	require.Error(t, want)
	for range 2 {
		done := h.LoadAll(t.Context(), requests(t, "a", "b", "c"))
		require.Len(t, done, 1)
		require.EqualError(t, done[0].Err, want.Error())
		assert.Equal(t, pid, h.waits.process.Pid)
	}
	assert.Equal(t, "kmmd: waits\x00", cmdline(t, pid))
	require.EqualError(t, h.Load(t.Context(), requests(t, "a")[0]), want.Error(), "no answer was left over")

	rs := requests(t, "a", "b", "c")
	assert.Empty(t, h.LoadAll(t.Context(), rs[:1]), "one is for Load")
	rs[1].File = nil
	assert.Empty(t, h.LoadAll(t.Context(), rs), "and so are those that it does not take")
	rs[1] = rs[0]
	rs[0].Parameters = "a\x00"
	assert.Empty(t, h.LoadAll(t.Context(), rs))
	done, cancel := context.WithCancel(t.Context())
	cancel()
	assert.Empty(t, h.LoadAll(done, requests(t, "a", "b")))
	h.Close()
	require.Len(t, h.LoadAll(t.Context(), requests(t, "a", "b")), 1)
	require.NotNil(t, h.waits, "it was started for that")
	assert.NotEqual(t, pid, h.waits.process.Pid)
	h.Close()
	h.exe = h.path("nothing")
	assert.Empty(t, h.LoadAll(t.Context(), requests(t, "a", "b")), "no child can be started")
}

// TestLoadAllCloses: a child that has answered all it was given, and takes no more, is not asked again.
func TestLoadAllCloses(t *testing.T) {
	h := scriptHost(t, "head -c 1 >/dev/null; for order in 1 2 3 4 5 6 7 8 9 10; do echo 0; done")
	require.NoError(t, h.Prepare())
	rs := requests(t, strings.Split("abcdefghij", "")...)
	for i := range rs {
		rs[i].Parameters = strings.Repeat("x", 100<<10) // all together are more than a socket holds (net.core.wmem_default)
	}
	done := h.LoadAll(t.Context(), rs)
	require.NotEmpty(t, done)
	assert.Less(t, len(done), len(rs))
	for _, d := range done {
		require.NoError(t, d.Err)
	}
	assert.Nil(t, h.waits)
}

// TestLoadAllEnds: a child that ends, or hangs, after one that it has loaded.
func TestLoadAllEnds(t *testing.T) {
	h := scriptHost(t, "head -c 156 >/dev/null; echo 0; echo 0; echo panic: x; exit 2") // once all four orders are there
	require.NoError(t, h.Prepare())
	rs := requests(t, "a", "b", "c", "d")
	done := h.LoadAll(t.Context(), rs)
	require.Len(t, done, 3)
	require.NoError(t, done[0].Err)
	require.NoError(t, done[1].Err)
	require.EqualError(t, done[2].Err, `load c: child ended without an answer: exit status 2: "panic: x"`)
	assert.Nil(t, h.waits)
	assert.True(t, h.keeps(rs[2].File), "the kernel may be at it still")
	assert.False(t, h.keeps(rs[3].File))
	require.NoError(t, h.Prepare())
	assert.Empty(t, h.LoadAll(t.Context(), rs[1:]), "what ends with a file that is kept is one")

	h = scriptHost(t, "head -c 1 >/dev/null; echo 0; kill -STOP $$")
	require.NoError(t, h.Prepare())
	rs = requests(t, "a", "b", "c")
	rs[1].Timeout = 50 * time.Millisecond
	done = h.LoadAll(t.Context(), rs)
	require.Len(t, done, 2)
	require.NoError(t, done[0].Err)
	require.EqualError(t, done[1].Err, "load b: kernel did not answer within 50ms: no such module in the kernel")
	require.ErrorIs(t, done[1].Err, ErrTimeout)
	assert.Nil(t, h.waits)
}
