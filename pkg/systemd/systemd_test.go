// SPDX-License-Identifier: Apache-2.0

package systemd

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// listen is systemd's end of a socket.
func listen(t *testing.T, name string) *net.UnixConn {
	t.Helper()
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, l.Close()) })
	return l
}

func environment(t *testing.T, socket, watchdog, pid string) {
	t.Helper()
	for name, value := range map[string]string{socketVariable: socket, watchdogVariable: watchdog, watchdogPIDVariable: pid} {
		t.Setenv(name, value)
		if value == "" {
			require.NoError(t, os.Unsetenv(name))
		}
	}
}

func read(t *testing.T, l *net.UnixConn) string {
	t.Helper()
	require.NoError(t, l.SetReadDeadline(time.Now().Add(10*time.Second)))
	b := make([]byte, 4096)
	n, err := l.Read(b)
	require.NoError(t, err)
	return string(b[:n])
}

func TestMessages(t *testing.T) {
	for name, socket := range map[string]string{
		"path":     filepath.Join(t.TempDir(), "notify"),
		"abstract": "@kmmd-test-" + strconv.Itoa(os.Getpid()),
	} {
		t.Run(name, func(t *testing.T) {
			l := listen(t, socket)
			environment(t, socket, "", "")
			m, err := Open()
			require.NoError(t, err)
			for want, states := range map[string][]State{
				"EXTEND_TIMEOUT_USEC=90000000": {Starting(90 * time.Second)},
				"READY=1\nSTATUS=one two":      {Ready, Status("one\ntwo")},
				"WATCHDOG=1":                   {Alive},
				"STOPPING=1":                   {Stopping},
			} {
				require.NoError(t, m.Tell(states...))
				assert.Equal(t, want, read(t, l))
			}
			require.NoError(t, m.Close())
		})
	}
}

func TestWatchdog(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "notify")
	listen(t, socket)
	us := strconv.Itoa(os.Getpid())
	for _, row := range []struct {
		name, limit, pid string
		want             time.Duration
		wrong            string
	}{
		{name: "none"},
		{name: "ours", limit: "30000000", pid: us, want: 30 * time.Second},
		{name: "without a process", limit: "30000000", want: 30 * time.Second},
		{name: "of another process", limit: "30000000", pid: "1"},
		{name: "no number", limit: "30s", pid: us, wrong: "WATCHDOG_USEC=30s: a number of microseconds is needed"},
		{name: "zero", limit: "0", pid: us, wrong: "WATCHDOG_USEC=0: a number of microseconds is needed"},
	} {
		t.Run(row.name, func(t *testing.T) {
			environment(t, socket, row.limit, row.pid)
			m, err := Open()
			if row.wrong != "" {
				assert.EqualError(t, err, row.wrong)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, row.want, m.Watchdog())
			require.NoError(t, m.Close())
			for _, name := range []string{socketVariable, watchdogVariable, watchdogPIDVariable} {
				_, there := os.LookupEnv(name)
				assert.False(t, there, "a child would find %s", name)
			}
		})
	}
}

func TestNobodyWaits(t *testing.T) {
	environment(t, "", "30000000", "")
	m, err := Open()
	require.NoError(t, err)
	require.Nil(t, m)
	assert.Zero(t, m.Watchdog())
	assert.NoError(t, m.Tell(Ready, Status("well")))
	assert.NoError(t, m.Close())
}

func TestManagerIsGone(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "notify")
	environment(t, socket, "", "")
	_, err := Open()
	assert.ErrorIs(t, err, os.ErrNotExist)
	assert.ErrorContains(t, err, "NOTIFY_SOCKET="+socket)
}
