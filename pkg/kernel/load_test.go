// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// scriptHost returns a host whose child is a shell script.
func scriptHost(t *testing.T, script string) *Host {
	t.Helper()
	h := emptyTree(t)
	h.exe = h.path("child")
	require.NoError(t, os.WriteFile(h.exe, []byte("#!/bin/sh\n"+script+"\n"), 0o755))
	return h
}

func moduleFile(t *testing.T) *os.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "dummy.ko")
	write(t, path, "the module\n")
	f, err := os.Open(path)
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

// TestChildAnswers: what the child says becomes the error.
func TestChildAnswers(t *testing.T) {
	tests := []struct {
		name, script, want string
		is                 error
	}{
		{"loaded", "echo 0", "", nil},
		{"refused", "echo 17", "load dummy: finit_module: EEXIST (file exists)", ErrLoaded},
		{"no number", "echo oops; echo 0", `load dummy: child ended without an answer: "oops"`, nil},
		{"negative", "echo -1", `load dummy: child ended without an answer: "-1"`, nil},
		{"silent", "exit 3", "load dummy: child ended without an answer: exit status 3", nil},
		{"killed", "kill -9 $$", "load dummy: child ended without an answer: signal: killed", nil},
		{"crash", "echo panic: x >&2; exit 2", `load dummy: child ended without an answer: exit status 2: "panic: x"`, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := scriptHost(t, tt.script)
			err := h.Load(t.Context(), LoadRequest{Name: "dummy", File: moduleFile(t), Timeout: time.Minute})
			if tt.want == "" {
				require.NoError(t, err)
				return
			}
			require.EqualError(t, err, tt.want)
			if tt.is != nil {
				require.ErrorIs(t, err, tt.is)
			}
		})
	}
}

// TestNoChild: the errno of starting it says nothing about the module.
func TestNoChild(t *testing.T) {
	h := scriptHost(t, "echo 0")
	require.NoError(t, os.Remove(h.exe))
	for name, err := range map[string]error{
		"load":   h.Load(t.Context(), LoadRequest{Name: "dummy", File: moduleFile(t)}),
		"unload": h.Unload(t.Context(), "dummy", 0),
	} {
		require.ErrorIs(t, err, ErrNoChild)
		require.NotErrorIs(t, err, unix.ENOENT)
		assert.Equal(t, Other, CauseOf(err))
		assert.Contains(t, err.Error(), name+" dummy: start child: ")
		assert.Contains(t, err.Error(), "no such file or directory")
	}
}

// TestChildOrder: what the child is given.
func TestChildOrder(t *testing.T) {
	h := scriptHost(t, `{ cat; echo; cat <&3; tr '\0' '|' </proc/$$/environ; pwd; } >"${0%/*}/got"; echo 0`)
	err := h.Load(t.Context(), LoadRequest{Name: "dummy", File: moduleFile(t), Parameters: `a=1 b="c d"`,
		IgnoreVermagic: true, IgnoreModversions: true, Compressed: true})
	require.NoError(t, err)
	got := strings.Split(read(t, h.path("got")), "\n")
	require.Len(t, got, 4)
	assert.Equal(t, []string{`finit_module 7 a=1 b="c d"`, "the module"}, got[:2])
	assert.Equal(t, "/", got[2], "nothing of our environment")

	h = scriptHost(t, `cat >"${0%/*}/got"; echo 11`)
	require.ErrorIs(t, h.Unload(t.Context(), "dummy", 0), ErrInUse)
	assert.Equal(t, "delete_module 2048 dummy", read(t, h.path("got")))
}

func TestDeadline(t *testing.T) {
	h := scriptHost(t, `echo $$ >"${0%/*}/pid"; echo "3,1,1,-;dummy: sleeping" >>"${0%/*}/dev/kmsg"; exec sleep 1000`)
	write(t, h.path("dev/kmsg"), "3,1,1,-;dummy: before\n")
	write(t, h.path("sys/module/dummy/initstate"), "coming\n")
	err := h.Load(t.Context(), LoadRequest{Name: "dummy", File: moduleFile(t), Timeout: 3 * time.Second}) // by then it has begun
	require.ErrorIs(t, err, ErrTimeout)
	assert.EqualError(t, err, `load dummy: kernel did not answer within 3s: module is "coming"; kernel: "dummy: sleeping"`)
	pid, err := strconv.Atoi(strings.TrimSpace(read(t, h.path("pid"))))
	require.NoError(t, err)
	require.Eventually(t, func() bool { return unix.Kill(pid, 0) == unix.ESRCH }, time.Minute, time.Millisecond,
		"the child is killed and reaped")

	h = scriptHost(t, "exec sleep 1000")
	err = h.Unload(t.Context(), "dummy", 50*time.Millisecond)
	require.EqualError(t, err, "unload dummy: kernel did not answer within 50ms: no such module in the kernel")
}

func TestAwait(t *testing.T) {
	child, err := os.FindProcess(1 << 30) // nobody
	require.NoError(t, err)
	run := func(name string, test func(*testing.T)) {
		t.Run(name, func(t *testing.T) { synctest.Test(t, test) })
	}
	run("answered at the last moment", func(t *testing.T) {
		answer := make(chan error, 1)
		time.AfterFunc(30*time.Millisecond, func() { answer <- unix.EBUSY })
		require.ErrorIs(t, await(answer, child, 10*time.Millisecond), unix.EBUSY)
	})
	run("killed", func(t *testing.T) {
		answer := make(chan error, 1)
		time.AfterFunc(30*time.Millisecond, func() { answer <- &childEnded{} })
		require.ErrorIs(t, await(answer, child, 10*time.Millisecond), ErrTimeout)
	})
	run("stuck", func(t *testing.T) {
		require.ErrorIs(t, await(make(chan error), child, 10*time.Millisecond), ErrTimeout)
	})
}

func TestBadRequests(t *testing.T) {
	h := scriptHost(t, "echo 0")
	done, cancel := context.WithCancel(t.Context())
	cancel()
	file := moduleFile(t)
	require.ErrorIs(t, h.Load(done, LoadRequest{Name: "dummy", File: file}), context.Canceled)
	require.ErrorIs(t, h.Unload(done, "dummy", 0), context.Canceled)
	require.EqualError(t, h.Load(t.Context(), LoadRequest{Name: "dummy"}), "load dummy: no file given")
	require.ErrorIs(t, h.Load(t.Context(), LoadRequest{Name: "dummy", File: file, Parameters: "a\x00b"}), unix.EINVAL)
	require.ErrorIs(t, h.Load(t.Context(), LoadRequest{Name: "dum\x00my", File: file}), unix.EINVAL)
	require.ErrorIs(t, h.Unload(t.Context(), "", 0), ErrNotLoaded)
	require.ErrorIs(t, h.Unload(t.Context(), strings.Repeat("x", 56), 0), ErrNotLoaded)

	long := LoadRequest{Name: "dummy", File: file, Parameters: strings.Repeat("x", 1<<18)}
	require.NoError(t, h.Load(t.Context(), long), "also when the child does not read it")
	h.exe = h.path("nothing")
	err := h.Load(t.Context(), LoadRequest{Name: "dummy", File: file})
	require.EqualError(t, err, "load dummy: start child: fork/exec "+h.exe+": no such file or directory")
	require.NotErrorIs(t, err, unix.ENOENT, "the kernel said nothing about the module")
}

// TestRealChild goes through RunChild of this binary. Whether by a lack of privilege or of modules in the kernel, it
// says no to this file; the answer is an errno.
func TestRealChild(t *testing.T) {
	h, err := Open("")
	require.NoError(t, err)
	err = h.Load(t.Context(), LoadRequest{Name: "kmmd_test_no_module", File: moduleFile(t)})
	var errno syscall.Errno
	require.ErrorAs(t, err, &errno, "%v", err)
	assert.Contains(t, err.Error(), "load kmmd_test_no_module: finit_module: E")
	err = h.Unload(t.Context(), "kmmd_test_no_module", 0)
	require.ErrorAs(t, err, &errno, "%v", err)
	assert.Contains(t, err.Error(), "unload kmmd_test_no_module: delete_module: E")
}

// TestNoChildInChild: a program that forgot RunChild must not start itself for ever.
func TestNoChildInChild(t *testing.T) {
	args := os.Args
	t.Cleanup(func() { os.Args = args })
	os.Args = []string{childName(opLoad, "dummy")}
	h := scriptHost(t, "echo 0")
	require.ErrorContains(t, h.Unload(t.Context(), "dummy", 0), "main does not call kernel.RunChild first")
}

func TestParseOrder(t *testing.T) {
	for _, order := range []string{"", "x", "finit_module", "finit_module x y", "reboot 0 now"} {
		_, err := parseOrder(order)
		assert.Error(t, err, order)
	}
	for _, r := range []syscallRequest{{call: callFinit, flags: 7, text: `a=1 b="c d"`}, {call: callFinit}, {call: callDelete, flags: 2048, text: "dummy"}} {
		got, err := parseOrder(r.String())
		require.NoError(t, err)
		assert.Equal(t, r, got)
	}
}

func BenchmarkChild(b *testing.B) {
	h, err := Open("")
	require.NoError(b, err)
	for b.Loop() {
		_ = h.Unload(b.Context(), "kmmd_test_no_module", 0)
	}
}
