// SPDX-License-Identifier: Apache-2.0

// Package systemd tells the service manager that started a daemon how it is
// doing, as sd_notify(3) describes, without a library: one datagram per message
// to the socket that the environment names. It never asks systemd for anything.
package systemd

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

// What systemd puts into the environment of a service: systemd.exec(5), section
// "Environment variables in spawned processes".
const (
	socketVariable      = "NOTIFY_SOCKET"
	watchdogVariable    = "WATCHDOG_USEC"
	watchdogPIDVariable = "WATCHDOG_PID"
)

// Manager is the service manager. The nil Manager is for a program that no
// manager waits for: its methods do nothing.
type Manager struct {
	conn     *net.UnixConn
	watchdog time.Duration
}

// Open connects to the manager that the environment names; nil when it names
// none. It takes the variables out of the environment, so that no child speaks in
// our name. The caller closes.
func Open() (*Manager, error) {
	socket, limit, pid := os.Getenv(socketVariable), os.Getenv(watchdogVariable), os.Getenv(watchdogPIDVariable)
	for _, name := range []string{socketVariable, watchdogVariable, watchdogPIDVariable} {
		if err := os.Unsetenv(name); err != nil {
			return nil, fmt.Errorf("take %s out of the environment: %w", name, err)
		}
	}
	if socket == "" {
		return nil, nil
	}
	// Of a leading @ package net makes the zero byte of an abstract socket.
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("connect to systemd (%s=%s): %w", socketVariable, socket, err)
	}
	m := &Manager{conn: conn}
	if limit == "" || pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return m, nil
	}
	usec, err := strconv.ParseInt(limit, 10, 64)
	if err != nil || usec <= 0 {
		_ = conn.Close()
		return nil, fmt.Errorf("%s=%s: a number of microseconds is needed", watchdogVariable, limit)
	}
	m.watchdog = time.Duration(usec) * time.Microsecond
	return m, nil
}

// Close closes the connection.
func (m *Manager) Close() error {
	if m == nil {
		return nil
	}
	return m.conn.Close()
}

// Watchdog is how long systemd waits to be told Alive before it kills the
// service; 0 when it does not wait for that.
func (m *Manager) Watchdog() time.Duration {
	if m == nil {
		return 0
	}
	return m.watchdog
}

// State is something to tell, as a line of sd_notify(3).
type State string

const (
	Ready    State = "READY=1"    // the start is finished: what is ordered after the service may start
	Alive    State = "WATCHDOG=1" // what the watchdog waits for
	Stopping State = "STOPPING=1" // the service has begun to end
)

// Status is one line for people, shown by systemctl status.
func Status(text string) State {
	return State("STATUS=" + strings.ReplaceAll(text, "\n", " "))
}

// Starting asks for so long from now before the start counts as failed.
func Starting(limit time.Duration) State {
	return State("EXTEND_TIMEOUT_USEC=" + strconv.FormatInt(limit.Microseconds(), 10))
}

// Tell sends one message. It never blocks for long: systemd reads its socket, or
// is gone.
func (m *Manager) Tell(states ...State) error {
	if m == nil || len(states) == 0 {
		return nil
	}
	lines := make([]string, len(states))
	for i, s := range states {
		lines[i] = string(s)
	}
	err := m.conn.SetWriteDeadline(time.Now().Add(time.Second))
	if err == nil {
		_, err = m.conn.Write([]byte(strings.Join(lines, "\n")))
	}
	if err != nil {
		return fmt.Errorf("tell systemd %s: %w", lines[0], err)
	}
	return nil
}
