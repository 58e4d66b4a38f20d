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

func TestIsModuleEvent(t *testing.T) {
	tests := []struct {
		msg  string
		want bool
	}{
		{"add@/module/dummy\x00ACTION=add\x00DEVPATH=/module/dummy\x00SUBSYSTEM=module\x00SEQNUM=567\x00", true},
		{"remove@/module/dummy\x00ACTION=remove\x00DEVPATH=/module/dummy\x00SUBSYSTEM=module\x00SEQNUM=568\x00", true},
		{"add@/bus/platform/drivers/x\x00ACTION=add\x00DEVPATH=/bus/platform/drivers/x\x00SUBSYSTEM=drivers\x00SEQNUM=1\x00", false},
		{"add@/devices/x\x00NAME=SUBSYSTEM=module\x00SUBSYSTEM=modules\x00", false},
		{"", false},
	}
	for _, tt := range tests {
		assert.Equal(t, tt.want, isModuleEvent([]byte(tt.msg)), "%q", tt.msg)
	}
}

// TestWatchModulesEnds needs no event: ready is called, and the end of ctx ends it.
func TestWatchModulesEnds(t *testing.T) {
	h := emptyTree(t)
	ctx, cancel := context.WithCancel(t.Context())
	require.NoError(t, h.WatchModules(ctx, func() { time.AfterFunc(20*time.Millisecond, cancel) }, func() {}))
	require.NoError(t, h.WatchModules(ctx, func() {}, func() {}), "done before it began")
}

// TestForeignSender: only the kernel's datagrams count.
func TestForeignSender(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	e, err := newUevents(fds[0])
	require.NoError(t, err)
	sender := os.NewFile(uintptr(fds[1]), "sender")
	defer sender.Close()
	_, err = sender.WriteString("add@/module/x\x00SUBSYSTEM=module\x00")
	require.NoError(t, err)
	buf := make([]byte, ueventSize)
	told, going, err := e.read(buf)
	require.NoError(t, err)
	assert.False(t, told)
	assert.False(t, going)
	e.end()
	_, _, err = e.read(buf)
	require.ErrorIs(t, err, errNoMore)
	e.close()
}

func BenchmarkIsModuleEvent(b *testing.B) {
	msg := []byte("add@/module/dummy\x00ACTION=add\x00DEVPATH=/module/dummy\x00SUBSYSTEM=module\x00SEQNUM=567\x00")
	for b.Loop() {
		isModuleEvent(msg)
	}
}
