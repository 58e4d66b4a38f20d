// SPDX-License-Identifier: Apache-2.0

package kmod_test

import (
	"os"
	"os/signal"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/kmm-node/kmmd/pkg/kmod"
	"github.com/kmm-node/kmmd/pkg/kmod/kmodtest"
)

// TestPipe: nobody is waited for who would write a module into a pipe.
func TestPipe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "m.ko")
	require.NoError(t, unix.Mkfifo(path, 0o600))
	_, err := kmod.ReadInfo(path)
	require.ErrorIs(t, err, kmod.ErrFormat)
	require.ErrorContains(t, err, "no regular file")
}

// TestLeased: who has a lease on the file is asked to give it back, and waited for.
func TestLeased(t *testing.T) {
	dir := t.TempDir()
	kmodtest.WriteTree(t, dir, map[string]kmodtest.Spec{"m.ko": fullSpec()})
	path := filepath.Join(dir, "m.ko")
	holder, err := os.Open(path)
	require.NoError(t, err)
	defer holder.Close()
	asked := make(chan os.Signal, 2)
	signal.Notify(asked, unix.SIGIO)
	defer signal.Stop(asked)
	fd := holder.Fd()
	_, err = unix.FcntlInt(fd, unix.F_SETLEASE, unix.F_WRLCK)
	require.NoError(t, err)
	given := make(chan error, 1)
	go func() {
		<-asked
		_, err := unix.FcntlInt(fd, unix.F_SETLEASE, unix.F_UNLCK)
		given <- err
	}()
	info, err := kmod.ReadInfo(path)
	require.NoError(t, <-given)
	require.NoError(t, err)
	require.Equal(t, fullSpec().Vermagic, info.Vermagic)
}
