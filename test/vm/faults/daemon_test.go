// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/kmm-node/kmmd/test/faults/state"
	"github.com/kmm-node/kmmd/test/vm/guest"
)

// daemon is a `kmmd run`.
type daemon struct {
	t   *testing.T
	cmd *exec.Cmd
	out *output
}

// start starts one. It is ended with the test, if it is not before.
func start(t *testing.T, args ...string) *daemon {
	t.Helper()
	d := &daemon{t: t, cmd: exec.Command(binary, append([]string{"run"}, args...)...), out: &output{}}
	d.cmd.Stdout, d.cmd.Stderr = d.out, d.out
	require.NoError(t, d.cmd.Start())
	logFailed(t, d.out)
	t.Cleanup(func() {
		if d.cmd.ProcessState == nil {
			_ = d.cmd.Process.Signal(unix.SIGCONT)
			d.kill()
		}
	})
	return d
}

// startReady waits until it has looked at the node.
func startReady(t *testing.T, args ...string) *daemon {
	t.Helper()
	d := start(t, args...)
	d.until("it is ready", func() error {
		if guest.Get("/readyz") != "ok\n" {
			return errors.New("/readyz is not ok")
		}
		return nil
	})
	return d
}

// stop ends it as systemd does.
func (d *daemon) stop() {
	d.t.Helper()
	require.NoError(d.t, d.cmd.Process.Signal(unix.SIGTERM))
	require.NoError(d.t, d.cmd.Wait())
}

// kill ends it without warning.
func (d *daemon) kill() {
	_ = d.cmd.Process.Kill()
	_ = d.cmd.Wait()
}

func (d *daemon) signal(s os.Signal) {
	d.t.Helper()
	require.NoError(d.t, d.cmd.Process.Signal(s))
}

// until waits for what must come.
func (d *daemon) until(what string, check func() error) {
	d.t.Helper()
	var err error
	require.Eventually(d.t, func() bool { err = check(); return err == nil }, patience, tick, what)
	require.NoError(d.t, err)
}

// untilIs waits until the node is as wanted. What it may be until then is for the
// caller to say.
func (d *daemon) untilIs(s state.State) {
	d.t.Helper()
	var err error
	if !assert.Eventually(d.t, func() bool { err = isNow(s); return err == nil }, patience, tick) {
		require.NoError(d.t, err, "the node becomes as wanted")
	}
}

func isNow(want state.State) error {
	s, err := state.Read(state.Node{Firmware: firmwareDir, Names: names})
	if err != nil {
		return err
	}
	return s.Is(want)
}

// status is what kmmd has reported of the Module of the scenarios: its state and
// its reason.
func status() (string, error) {
	data, err := os.ReadFile(runDir + "/status.json")
	if err != nil {
		return "", err
	}
	var s struct {
		Modules []struct{ Name, State, Reason, Message string }
	}
	if err := json.Unmarshal(data, &s); err != nil {
		return "", err
	}
	for _, m := range s.Modules {
		if m.Name == "driver" {
			return m.State + " " + m.Reason, nil
		}
	}
	return "", errors.New("the status does not name the Module")
}

// untilReports waits for a state and a reason.
func (d *daemon) untilReports(want string) {
	d.t.Helper()
	d.until("it reports "+want, func() error {
		have, err := status()
		if err == nil && have != want {
			err = fmt.Errorf("it reports %s", have)
		}
		return err
	})
}
