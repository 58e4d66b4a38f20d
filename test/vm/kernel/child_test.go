// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/kernel"
	"github.com/kmm-node/kmmd/pkg/kmod"
)

// helperEnv makes this test binary load the file it names, as another process would.
const helperEnv = "KMMD_TEST_HELPER"

// helper loads a file and tells the cause of a failure by its output.
func helper(path string) int {
	h, err := kernel.Open("")
	if err != nil {
		fmt.Println(err)
		return 2
	}
	f, err := os.Open(path)
	if err != nil {
		fmt.Println(err)
		return 2
	}
	r := kernel.LoadRequest{Name: kmod.Name(path), File: f, Timeout: time.Minute}
	if r.Name == "kmm_sleep" {
		r.Parameters = "secs=3"
	}
	if err := h.Load(context.Background(), r); err != nil {
		fmt.Println(kernel.CauseOf(err), errors.Is(err, kernel.ErrPermission), err)
		return 1
	}
	return 0
}

func helperCommand(t *testing.T, path string) *exec.Cmd {
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
	cmd.Env = append(os.Environ(), helperEnv+"="+path)
	return cmd
}

// childOf returns the process that makes a system call for a module, 0 for none.
func childOf(t *testing.T, op, module string) int {
	t.Helper()
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(t, err)
	for _, path := range lines {
		b, err := os.ReadFile(path)
		if err == nil && string(b) == "kmmd: "+op+" "+module+"\x00" {
			pid, err := strconv.Atoi(strings.Split(path, "/")[2])
			require.NoError(t, err)
			return pid
		}
	}
	return 0
}

// coming waits until the module is in its init function. The kernel has no event for that.
func coming(t *testing.T, h *kernel.Host, name string) {
	t.Helper()
	require.Eventually(t, func() bool {
		m, err := h.Module(name)
		return err == nil && m.State == kernel.StateComing
	}, time.Minute, 10*time.Millisecond)
}

func TestDeadline(t *testing.T) {
	h := open(t)
	unload(t, h, "kmm_sleep")
	start := time.Now()
	ended := make(chan error, 1)
	go func() { ended <- load(t, h, "kmm_sleep.ko", "secs=30", 10*time.Second) }()
	coming(t, h, "kmm_sleep")
	child := childOf(t, "load", "kmm_sleep")
	require.NotZero(t, child)
	err := <-ended
	require.ErrorIs(t, err, kernel.ErrTimeout)
	assert.Less(t, time.Since(start), 25*time.Second)
	assert.Equal(t, kernel.Timeout, kernel.CauseOf(err))
	assert.ErrorContains(t, err, `load kmm_sleep: kernel did not answer within 10s: module is "coming"; kernel: "kmm_sleep: sleeping for 30 s"`)

	require.ErrorIs(t, h.Unload(t.Context(), "kmm_sleep", time.Minute), kernel.ErrBusy)
	require.NoError(t, syscall.Kill(child, 0), "SIGKILL does not wake a sleeping init function")

	// The kernel finishes what it began, and nobody is left behind.
	await(t, h, "kmm_sleep", kernel.StateLive)
	require.Eventually(t, func() bool { return errors.Is(syscall.Kill(child, 0), syscall.ESRCH) }, time.Minute, 10*time.Millisecond)
}

// zombies counts our children that nobody waited for.
func zombies(t *testing.T) int {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	require.NoError(t, err)
	n := 0
	for _, path := range stats {
		b, _ := os.ReadFile(path) // gone by now: empty
		if _, rest, ok := strings.Cut(string(b), ") "); ok && strings.HasPrefix(rest, "Z "+strconv.Itoa(os.Getpid())+" ") {
			n++
		}
	}
	return n
}

func TestSignals(t *testing.T) {
	h := open(t)
	unload(t, h, "kmm_sleep")
	ended := make(chan error, 1)
	go func() { ended <- load(t, h, "kmm_sleep.ko", "secs=5", time.Minute) }()
	coming(t, h, "kmm_sleep")
	pid := childOf(t, "load", "kmm_sleep")
	require.NotZero(t, pid)
	group, err := syscall.Getpgid(pid)
	require.NoError(t, err)
	assert.Equal(t, pid, group, "an interrupt from the terminal does not reach the child")
	for _, s := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGURG} {
		require.NoError(t, syscall.Kill(pid, s))
	}
	require.NoError(t, <-ended)
}

func TestParentKilled(t *testing.T) {
	h := open(t)
	unload(t, h, "kmm_sleep")
	cmd := helperCommand(t, filepath.Join(modules, "kmm_sleep.ko"))
	require.NoError(t, cmd.Start())
	coming(t, h, "kmm_sleep")
	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
	await(t, h, "kmm_sleep", kernel.StateLive)
}

func TestSameFileTwice(t *testing.T) {
	h := open(t)
	unload(t, h, "kmm_sleep")
	first, second := make(chan error, 1), make(chan error, 1)
	go func() { first <- load(t, h, "kmm_sleep.ko", "secs=2", time.Minute) }()
	coming(t, h, "kmm_sleep")
	go func() { second <- load(t, h, "kmm_sleep.ko", "secs=1", time.Minute) }()
	require.NoError(t, <-first)
	if err := <-second; err != nil { // since Linux 6.5 the second is told of the first one's success
		require.ErrorIs(t, err, kernel.ErrLoaded)
	}
	m, err := h.Module("kmm_sleep")
	require.NoError(t, err)
	assert.Equal(t, "2", m.Parameters["secs"])
}

func TestNoPrivilege(t *testing.T) {
	path := copyFile(t, filepath.Join(modules, "kmm_base.ko"))
	cmd := helperCommand(t, path)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	require.Error(t, err)
	assert.Equal(t, "Permission true load kmm_base: finit_module: EPERM (operation not permitted)\n", string(out))
}

// TestFileBusy loads a file that is open for writing, but not for long.
func TestFileBusy(t *testing.T) {
	h := open(t)
	unload(t, h, "kmm_base")
	path := copyFile(t, filepath.Join(modules, "kmm_base.ko"))
	w, err := os.OpenFile(path, os.O_WRONLY, 0)
	require.NoError(t, err)
	err = load(t, h, path, "", time.Minute)
	require.ErrorIs(t, err, syscall.ETXTBSY)
	assert.Equal(t, kernel.Busy, kernel.CauseOf(err))
	time.AfterFunc(100*time.Millisecond, func() { w.Close() })
	require.NoError(t, load(t, h, path, "", time.Minute))
}

// copyFile returns a copy with the same name which everybody may read.
func copyFile(t *testing.T, path string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	require.NoError(t, os.Chmod(dir, 0o755))
	from, err := os.Open(path)
	require.NoError(t, err)
	defer from.Close()
	to, err := os.Create(filepath.Join(dir, filepath.Base(path)))
	require.NoError(t, err)
	_, err = io.Copy(to, from)
	require.NoError(t, err)
	require.NoError(t, to.Close())
	return to.Name()
}

// BenchmarkLoadUnload is to be run without the tests: the last of them close the kernel to modules.
func BenchmarkLoadUnload(b *testing.B) {
	h, err := kernel.Open("")
	require.NoError(b, err)
	for b.Loop() {
		f, err := os.Open(filepath.Join(modules, "kmm_base.ko"))
		require.NoError(b, err)
		require.NoError(b, h.Load(b.Context(), kernel.LoadRequest{Name: "kmm_base", File: f}))
		require.NoError(b, f.Close())
		require.NoError(b, h.Unload(b.Context(), "kmm_base", 0))
	}
}
