// SPDX-License-Identifier: Apache-2.0

package lab_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kmm-node/kmmd/test/cluster/lab"
	"github.com/kmm-node/kmmd/test/cluster/play"
)

func TestAPIServerComesBack(t *testing.T) {
	c := lab.New(t, lab.Options{})
	player := play.Start(t, c.Config())
	require.NoError(t, player.AddNodes(t.Context(), play.Node{Name: "stays"}))
	nodes := newClient(t, c.Config()).CoreV1().Nodes()
	before, err := nodes.Get(t.Context(), "stays", metav1.GetOptions{})
	require.NoError(t, err)
	assert.Empty(t, before.Spec.Taints)

	port, pid := c.Port(), c.PID("kube-apiserver")
	for _, stop := range []func(){c.StopAPIServer, c.KillAPIServer} {
		stop()
		assert.Zero(t, c.PID("kube-apiserver"))
		assert.NotZero(t, c.PID("etcd"))
		_, err = nodes.Get(t.Context(), "stays", metav1.GetOptions{})
		require.ErrorIs(t, err, syscall.ECONNREFUSED)
		require.NoError(t, c.StartAPIServer(t.Context()))
		after, err := nodes.Get(t.Context(), "stays", metav1.GetOptions{})
		require.NoError(t, err)
		assert.Equal(t, before.UID, after.UID)
	}
	assert.Equal(t, port, c.Port())
	assert.NotEqual(t, pid, c.PID("kube-apiserver"))
}

// child in the environment makes the test binary a program that starts a cluster.
const child = "KMMD_CLUSTER_CHILD"

// beChild tells the servers' processes and does nothing more.
func beChild() {
	c, err := lab.Start(context.Background(), lab.Options{ControllerManager: true, Scheduler: true})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(c.PID("etcd"), c.PID("kube-apiserver"), c.PID("kube-controller-manager"), c.PID("kube-scheduler"))
	_, err = io.Copy(io.Discard, os.Stdin)
	c.Stop()
	if err != nil {
		os.Exit(1)
	}
	os.Exit(0)
}

func TestClusterDiesWithItsParent(t *testing.T) {
	for _, how := range []string{"stopped", "killed"} {
		t.Run(how, func(t *testing.T) {
			temporary := t.TempDir()
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), child+"=1", "TMPDIR="+temporary)
			cmd.Stderr = os.Stderr
			stdin, err := cmd.StdinPipe()
			require.NoError(t, err)
			stdout, err := cmd.StdoutPipe()
			require.NoError(t, err)
			require.NoError(t, cmd.Start())
			t.Cleanup(func() {
				cmd.Process.Kill() //nolint:errcheck // it has ended when all is well
				cmd.Wait()         //nolint:errcheck // as above
			})
			line, err := bufio.NewReader(stdout).ReadString('\n')
			require.NoError(t, err)
			var pids [4]int
			_, err = fmt.Sscan(line, &pids[0], &pids[1], &pids[2], &pids[3])
			require.NoError(t, err, line)
			for _, pid := range pids {
				require.DirExists(t, fmt.Sprintf("/proc/%d", pid))
			}

			if how == "killed" {
				require.NoError(t, cmd.Process.Kill())
			} else {
				require.NoError(t, stdin.Close())
				require.NoError(t, cmd.Wait())
				left, err := os.ReadDir(temporary)
				require.NoError(t, err)
				assert.Empty(t, left)
			}
			for _, pid := range pids {
				lab.Wait(t, "the server ends", func() error { return gone(pid) })
			}
		})
	}
}

func gone(pid int) error {
	state, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if os.IsNotExist(err) || strings.Contains(string(state), ") Z ") { // whoever inherits it may not look after it
		return nil
	}
	return fmt.Errorf("process %d: %s", pid, state)
}
