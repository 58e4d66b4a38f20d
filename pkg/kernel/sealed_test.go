// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"errors"
	"fmt"
	"io"
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestSealed(t *testing.T) {
	f, err := Sealed("dummy", func(w io.Writer) error {
		_, err := io.WriteString(w, "the module\n")
		return err
	})
	require.NoError(t, err)
	defer f.Close()
	text, err := io.ReadAll(f)
	require.NoError(t, err)
	assert.Equal(t, "the module\n", string(text))

	_, err = f.WriteAt([]byte("T"), 0)
	require.ErrorIs(t, err, unix.EPERM)
	require.ErrorIs(t, f.Truncate(0), unix.EPERM)
	_, err = unix.Mmap(int(f.Fd()), 0, 4, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	require.ErrorIs(t, err, unix.EPERM)
	again, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), os.O_RDWR, 0)
	require.NoError(t, err)
	defer again.Close()
	_, err = again.Write([]byte("T"))
	require.ErrorIs(t, err, unix.EPERM, "nor by another descriptor")
	_, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_WRITE)
	require.ErrorIs(t, err, unix.EPERM, "seals stay")

	wrong := errors.New("wrong")
	_, err = Sealed("dummy", func(io.Writer) error { return wrong })
	require.ErrorIs(t, err, wrong)
}
