// SPDX-License-Identifier: Apache-2.0

package kerneltest

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/ulikunitz/xz"

	"github.com/kmm-node/kmmd/pkg/kernel"
	"github.com/kmm-node/kmmd/pkg/kmod/kmodtest"
)

// testRefused: each with its errno, its cause, a named line of the kernel, and nothing left behind.
func testRefused(t *testing.T, f Fixture) {
	tests := []struct {
		path, name string
		errno      syscall.Errno
		cause      kernel.Cause
		log        string // of the first line
	}{
		{"variants/wrong-vermagic/dummy.ko", "dummy", syscall.ENOEXEC, kernel.Vermagic, "dummy: version magic '"},
		{"variants/unknown-symbol/dummy.ko", "dummy", syscall.ENOENT, kernel.UnknownSymbol, "dummy: Unknown symbol kmm_no_such_symbol (err -2)"},
		{"variants/truncated/dummy.ko", "dummy", syscall.ENOEXEC, kernel.NotAModule, "Invalid ELF"},
		{"kmm_fail.ko", "kmm_fail", syscall.ENODEV, kernel.InitFailed, "kmm_fail: no such hardware (-19)"},
	}
	for _, tt := range tests {
		t.Run(tt.path, func(t *testing.T) {
			err := f.refuse(t, tt.path, tt.name, "")
			require.ErrorIs(t, err, tt.errno)
			assert.Equal(t, tt.cause, kernel.CauseOf(err), "%v", err)
			assert.ErrorContains(t, err, "load "+tt.name+": finit_module: "+kernel.ErrnoName(tt.errno))
			var e *kernel.Error
			require.ErrorAs(t, err, &e)
			require.NotEmpty(t, e.Log)
			assert.Contains(t, strings.Join(e.Log, "\n"), tt.log)
			_, err = f.Kernel.Module(tt.name)
			assert.ErrorIs(t, err, kernel.ErrNotLoaded)
		})
	}
	t.Run("release alone does not matter", func(t *testing.T) {
		f.load(t, "variants/other-release/dummy.ko", "dummy", "")
	})
	t.Run("but where CRCs are to be ignored", func(t *testing.T) {
		err := f.Kernel.Load(t.Context(), kernel.LoadRequest{
			Name: "dummy", File: f.file(t, "variants/other-release/dummy.ko"), IgnoreModversions: true, Timeout: timeout,
		})
		require.ErrorIs(t, err, syscall.ENOEXEC)
		assert.Equal(t, kernel.Vermagic, kernel.CauseOf(err))
	})
	t.Run("vermagic ignored", func(t *testing.T) {
		err := f.Kernel.Load(t.Context(), kernel.LoadRequest{
			Name: "dummy", File: f.file(t, "variants/wrong-vermagic/dummy.ko"), IgnoreVermagic: true, Timeout: timeout,
		})
		require.NoError(t, err)
		m, err := f.Kernel.Module("dummy")
		require.NoError(t, err)
		assert.Contains(t, m.Taint, "F")
		require.NoError(t, f.Kernel.Unload(t.Context(), "dummy", timeout))
	})
}

func testNotLoaded(t *testing.T, f Fixture) {
	f.load(t, "kmm_base.ko", "kmm_base", "")
	names := []string{"kmm-base", "kmm_nothing", f.Builtin, strings.Repeat("x", 60), ""}
	for _, name := range names {
		_, err := f.Kernel.Module(name)
		assert.ErrorIs(t, err, kernel.ErrNotLoaded, name)
		assert.ErrorIs(t, f.Kernel.Unload(t.Context(), name, timeout), kernel.ErrNotLoaded, name)
	}
}

func testWrongFile(t *testing.T, f Fixture) {
	dir := t.TempDir()
	text, empty := filepath.Join(dir, "text.ko"), filepath.Join(dir, "empty.ko")
	writeFile(t, text, []byte(strings.Repeat("no module\n", 100)))
	writeFile(t, empty, nil)

	err := f.refuse(t, text, "text", "")
	require.ErrorIs(t, err, syscall.ENOEXEC)
	assert.Equal(t, kernel.NotAModule, kernel.CauseOf(err))
	assert.ErrorContains(t, err, "Invalid ELF header magic")

	require.ErrorIs(t, f.refuse(t, empty, "empty", ""), syscall.EINVAL)
	require.ErrorIs(t, f.refuse(t, dir, "dir", ""), syscall.EINVAL)
	assert.Error(t, f.Kernel.Load(t.Context(), kernel.LoadRequest{Name: "none", Timeout: timeout}))
	err = f.refuse(t, "kmm_base.ko", "kmm_base", "level=1\x00")
	require.ErrorIs(t, err, syscall.EINVAL)
}

// testCompressed: the kernel's xz knows no check but CRC32, while xz(1) has CRC64 unless told otherwise.
func testCompressed(t *testing.T, f Fixture) {
	plain, err := os.ReadFile(filepath.Join(f.Modules, "dummy.ko"))
	require.NoError(t, err)
	compressed := func(t *testing.T, content []byte) error {
		path := filepath.Join(t.TempDir(), "dummy.ko")
		writeFile(t, path, content)
		return f.Kernel.Load(t.Context(), kernel.LoadRequest{Name: "dummy", File: f.file(t, path), Compressed: true, Timeout: timeout})
	}
	if f.Kernel.Compression() == "" {
		require.ErrorIs(t, compressed(t, plain), syscall.EOPNOTSUPP)
		return
	}
	require.Equal(t, "xz", f.Kernel.Compression())
	for _, tt := range []struct {
		name    string
		content []byte
		log     string // "" is taken
	}{
		{"no check", kmodtest.XZ(t, plain, xz.None), ""},
		{"CRC32", kmodtest.XZ(t, plain, xz.CRC32), ""},
		{"CRC64", kmodtest.XZ(t, plain, xz.CRC64), "decompression failed with status 6"},
		{"SHA-256", kmodtest.XZ(t, plain, xz.SHA256), "decompression failed with status 6"},
		{"plain", plain, "not an xz compressed module"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := compressed(t, tt.content)
			if tt.log == "" {
				require.NoError(t, err)
				require.NoError(t, f.Kernel.Unload(t.Context(), "dummy", timeout))
				return
			}
			require.ErrorIs(t, err, syscall.EINVAL)
			require.ErrorContains(t, err, tt.log)
			assert.Equal(t, kernel.NotAModule, kernel.CauseOf(err))
		})
	}
}

func testFirmware(t *testing.T, f Fixture) {
	before, err := f.Kernel.FirmwarePath()
	require.NoError(t, err)
	dir := t.TempDir()
	require.NoError(t, f.Kernel.SetFirmwarePath(dir))
	t.Cleanup(func() {
		assert.NoError(t, f.Kernel.SetFirmwarePath(before))
		after, err := f.Kernel.FirmwarePath()
		assert.NoError(t, err)
		assert.Equal(t, before, after)
	})
	path, err := f.Kernel.FirmwarePath()
	require.NoError(t, err)
	assert.Equal(t, dir, path)

	err = f.refuse(t, "kmm_fw.ko", "kmm_fw", "")
	require.ErrorIs(t, err, syscall.ENOENT)
	assert.Equal(t, kernel.FirmwareMissing, kernel.CauseOf(err))
	assert.ErrorContains(t, err, "Direct firmware load for kmm/fw.bin failed with error -2")

	writeFile(t, filepath.Join(dir, "kmm/fw.bin"), []byte("firmware"))
	f.load(t, "kmm_fw.ko", "kmm_fw", "")
	require.NoError(t, f.Kernel.Unload(t.Context(), "kmm_fw", timeout))

	require.NoError(t, f.Kernel.SetFirmwarePath(""))
	path, err = f.Kernel.FirmwarePath()
	require.NoError(t, err)
	assert.Empty(t, path)
	require.ErrorIs(t, f.refuse(t, "kmm_fw.ko", "kmm_fw", ""), syscall.ENOENT)
	require.NoError(t, os.RemoveAll(dir))

	assert.Error(t, f.Kernel.SetFirmwarePath("/"+strings.Repeat("x", 255)))
	assert.Error(t, f.Kernel.SetFirmwarePath("/lib/firmware\n"))
	assert.NoError(t, f.Kernel.SetFirmwarePath("/"+strings.Repeat("x", 254)))
}

func testHold(t *testing.T, f Fixture) {
	held, err := f.Kernel.Held()
	require.NoError(t, err)
	require.Empty(t, held)
	t.Cleanup(func() { assert.NoError(t, f.Kernel.HoldAutoload(nil)) })
	require.NoError(t, f.Kernel.HoldAutoload([]string{"kmm_base", "dummy", "dummy"}))
	held, err = f.Kernel.Held()
	require.NoError(t, err)
	assert.Equal(t, []string{"dummy", "kmm_base"}, held)

	f.load(t, "kmm_base.ko", "kmm_base", "") // ours is not held

	assert.Error(t, f.Kernel.HoldAutoload([]string{"a b"}))
	assert.Error(t, f.Kernel.HoldAutoload([]string{"*"}))
	held, err = f.Kernel.Held()
	require.NoError(t, err)
	assert.Len(t, held, 2)
	require.NoError(t, f.Kernel.HoldAutoload(nil))
	require.NoError(t, f.Kernel.HoldAutoload(nil))
	held, err = f.Kernel.Held()
	require.NoError(t, err)
	assert.Empty(t, held)
}

func testWatch(t *testing.T, f Fixture) {
	ctx, cancel := context.WithCancel(t.Context())
	ready, ended := make(chan struct{}), make(chan error, 1)
	changed := make(chan struct{}, 1000)
	go func() {
		ended <- f.Kernel.WatchModules(ctx, func() { close(ready) }, func() { changed <- struct{}{} })
	}()
	<-ready
	f.load(t, "kmm_base.ko", "kmm_base", "")
	<-changed
	drain(changed)
	require.NoError(t, f.Kernel.Unload(t.Context(), "kmm_base", timeout))
	<-changed
	cancel()
	require.NoError(t, <-ended)
}

// drain empties a channel.
func drain(c chan struct{}) {
	for {
		select {
		case <-c:
		default:
			return
		}
	}
}

func testDoneContext(t *testing.T, f Fixture) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := f.Kernel.Load(ctx, kernel.LoadRequest{Name: "kmm_base", File: f.file(t, "kmm_base.ko")})
	require.ErrorIs(t, err, context.Canceled)
	assert.Equal(t, kernel.Other, kernel.CauseOf(err))
	require.ErrorIs(t, f.Kernel.Unload(ctx, "kmm_base", 0), context.Canceled)
	_, err = f.Kernel.Module("kmm_base")
	assert.ErrorIs(t, err, kernel.ErrNotLoaded)
}
