// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// unbindFile is a file that can be written.
func unbindFile(t *testing.T, h *Host) *os.File {
	t.Helper()
	write(t, h.path("sys/unbind"), "")
	f, err := os.OpenFile(h.path("sys/unbind"), os.O_WRONLY, 0)
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

// TestWrite goes through RunChild of this binary, which has to do it under its filter for system calls.
func TestWrite(t *testing.T) {
	h, pid := prepared(t)
	r := WriteRequest{Device: "0000:00:02.0", File: unbindFile(t, h), Text: "0000:00:02.0 a b"}
	require.NoError(t, h.Write(t.Context(), r))
	assert.Equal(t, "0000:00:02.0 a b", read(t, h.path("sys/unbind")))
	assert.Equal(t, pid, h.waits.process.Pid, "the child that waits has no part in it")

	var err error
	r.File, err = os.Open(h.path("sys/unbind"))
	require.NoError(t, err)
	defer r.File.Close()
	err = h.Write(t.Context(), r)
	require.EqualError(t, err, "write "+h.path("sys/unbind")+": EBADF (bad file descriptor)")
	require.ErrorIs(t, err, unix.EBADF)
	assert.Equal(t, Other, CauseOf(err))
	require.NoError(t, h.Hanging(r.Device), "a refusal is an answer")

	done, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, h.Write(done, r), context.Canceled)
	require.EqualError(t, h.Write(t.Context(), WriteRequest{Device: "x"}), "write x: no file given")
}

// TestWriteOrder: what the child is given.
func TestWriteOrder(t *testing.T) {
	h := scriptHost(t, `{ cat; } >"${0%/*}/got"; printf x >&3; echo 19`)
	write(t, h.path("dev/kmsg"), "")
	err := h.Write(t.Context(), WriteRequest{Device: "0000:00:02.0", File: unbindFile(t, h), Text: "0"})
	require.ErrorIs(t, err, unix.ENODEV)
	assert.Equal(t, "write 0 0", read(t, h.path("got")))
	assert.Equal(t, "x", read(t, h.path("sys/unbind")))
}

// TestWriteHangs: what is not answered is told, and keeps from everything else that is written for the device until it comes
// back. The script comes back from a kernel that a signal does not get it out of.
func TestWriteHangs(t *testing.T) {
	h := scriptHost(t, `echo "3,1,1,-;kmm_pci 0000:00:02.0: remove hangs" >>"${0%/*}/dev/kmsg"; exec 3>&- 0<&-
(read x <"${0%/*}/release") & kill -STOP $$`)
	write(t, h.path("dev/kmsg"), "")
	require.NoError(t, unix.Mkfifo(h.path("release"), 0o600))
	f := unbindFile(t, h)
	r := WriteRequest{Device: "0000:00:02.0", Driver: "kmm_pci", File: f, Text: "0000:00:02.0", Timeout: 3 * time.Second} // by then it has begun
	err := h.Write(t.Context(), r)
	require.ErrorIs(t, err, ErrTimeout)
	assert.Equal(t, Timeout, CauseOf(err))
	require.EqualError(t, err, "write "+f.Name()+": kernel did not answer within 3s: the driver still is at it, and nothing else is done with "+
		`0000:00:02.0 until it comes back; if it never does, only a reboot helps; kernel: "kmm_pci 0000:00:02.0: remove hangs"`)

	start := time.Now()
	err = h.Write(t.Context(), r)
	assert.Less(t, time.Since(start), r.Timeout, "it is not tried")
	require.ErrorIs(t, err, ErrTimeout)
	require.EqualError(t, err, "write "+f.Name()+": kernel did not answer an earlier call ("+f.Name()+"), which has to come back first")
	require.NoError(t, h.Hanging("0000:00:03.0"), "others are none of its business")

	release, err := os.OpenFile(h.path("release"), os.O_WRONLY, 0)
	require.NoError(t, err)
	require.NoError(t, release.Close())
	require.Eventually(t, func() bool { return h.Hanging(r.Device) == nil }, time.Minute, time.Millisecond)
	h.exe = "/proc/self/exe"
	require.NoError(t, h.Write(t.Context(), r))
}

// TestWriteCrashes: a child that is gone when it is killed does not keep from another try.
func TestWriteCrashes(t *testing.T) {
	h := scriptHost(t, "exec sleep 1000")
	r := WriteRequest{Device: "0000:00:02.0", File: unbindFile(t, h), Text: "0", Timeout: 50 * time.Millisecond}
	err := h.Write(t.Context(), r)
	require.ErrorIs(t, err, ErrTimeout)
	require.ErrorContains(t, err, "within 50ms: ")
	h = scriptHost(t, "exit 3")
	r.Timeout = time.Minute
	require.EqualError(t, h.Write(t.Context(), r), "write "+r.File.Name()+": child ended without an answer: exit status 3")
	require.NoError(t, h.Hanging(r.Device))
}
