// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"bytes"
	"errors"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/test/faults/points"
)

// output is what the last kmmd said, for a test that fails.
type output struct{ bytes.Buffer }

// command is a kmmd that does all there is to do, and ends.
func command() (*exec.Cmd, *output) {
	cmd := exec.Command(binary, "run", "--once")
	var out output
	cmd.Stdout, cmd.Stderr = &out, &out
	return cmd, &out
}

// once runs it and gives its exit code.
func once(t *testing.T) int {
	t.Helper()
	cmd, out := command()
	code := exitCode(t, cmd.Run())
	logFailed(t, out)
	return code
}

// watched runs it and calls at for each point. It gives the exit code, -1 when it
// was killed.
func watched(t *testing.T, at func(*exec.Cmd, points.Point) points.Verdict) int {
	t.Helper()
	cmd, out := command()
	r, err := points.Start(cmd, func(p points.Point) points.Verdict { return at(cmd, p) })
	require.NoError(t, err)
	code := exitCode(t, r.Wait())
	logFailed(t, out)
	return code
}

func exitCode(t *testing.T, err error) int {
	t.Helper()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	require.NoError(t, err)
	return 0
}

// logFailed shows what kmmd said if the test fails in the end.
func logFailed(t *testing.T, out *output) {
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(out.String())
		}
	})
}
