// SPDX-License-Identifier: Apache-2.0

package kerneltest_test

import (
	"context"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/kernel"
	"github.com/kmm-node/kmmd/pkg/kernel/kerneltest"
	"github.com/kmm-node/kmmd/pkg/kmod/kmodtest"
)

var (
	_ kerneltest.Loader = (*kernel.Host)(nil)
	_ kerneltest.Loader = (*kerneltest.Kernel)(nil)
)

const release = "6.1.0-56-cloud-amd64"

func TestLoader(t *testing.T) {
	kerneltest.TestLoader(t, kerneltest.NewFixture)
}

// build returns a kernel and the path of a module file for it.
func build(t *testing.T, name string, spec kmodtest.Spec) (*kerneltest.Kernel, string) {
	t.Helper()
	if spec.Vermagic == "" {
		spec.Vermagic = kerneltest.Vermagic(release)
	}
	dir := t.TempDir()
	kmodtest.WriteTree(t, dir, map[string]kmodtest.Spec{name: spec})
	return kerneltest.New(release), filepath.Join(dir, name)
}

func load(t *testing.T, k *kerneltest.Kernel, path string, r kernel.LoadRequest) error {
	t.Helper()
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	r.Name, r.File = "m", f
	return k.Load(t.Context(), r)
}

func TestBuiltin(t *testing.T) {
	k, path := build(t, "m.ko", kmodtest.Spec{Depends: []string{"core"}})
	k.AddBuiltin("core")
	require.NoError(t, load(t, k, path, kernel.LoadRequest{}), "a built-in dependency is there")
	require.NoError(t, k.Rmmod("m"))
	k.AddBuiltin("m")
	err := load(t, k, path, kernel.LoadRequest{})
	require.ErrorIs(t, err, syscall.EINVAL)
	assert.Equal(t, kernel.Builtin, kernel.CauseOf(err))
	require.ErrorIs(t, k.Unload(t.Context(), "m", 0), kernel.ErrNotLoaded)
}

func TestStates(t *testing.T) {
	k, path := build(t, "m.ko", kmodtest.Spec{})
	k.Preload(path, "")
	unload := func() error { return k.Unload(t.Context(), "m", 0) }

	k.SetState("m", kernel.StateGoing)
	require.ErrorIs(t, unload(), kernel.ErrBusy)
	require.ErrorIs(t, load(t, k, path, kernel.LoadRequest{}), kernel.ErrBusy)
	m, err := k.Module("m")
	require.NoError(t, err)
	assert.Equal(t, -1, m.Refs)

	k.SetState("m", kernel.StateLive)
	k.SetPermanent("m")
	require.ErrorIs(t, unload(), kernel.ErrBusy)
	assert.Panics(t, func() { k.Hold("x", 1) })
	assert.Panics(t, func() { k.Preload(path, "") }, "it is there already")
}

func TestHangInit(t *testing.T) {
	k, path := build(t, "m.ko", kmodtest.Spec{})
	k.HangInit("m", "BUG: oops")
	for range 2 {
		err := load(t, k, path, kernel.LoadRequest{})
		require.ErrorIs(t, err, kernel.ErrTimeout)
		assert.Equal(t, kernel.Timeout, kernel.CauseOf(err))
	}
	list, err := k.Modules()
	require.NoError(t, err)
	assert.Len(t, list, 1)
	m, err := k.Module("m")
	require.NoError(t, err)
	assert.Equal(t, kernel.StateComing, m.State)
	assert.Equal(t, 1, m.Refs)
	require.ErrorIs(t, k.Unload(t.Context(), "m", 0), kernel.ErrBusy)
	k.Reboot(release)
	k.FailInit("m", 0)
	require.NoError(t, load(t, k, path, kernel.LoadRequest{}))
}

func TestDependencyWithoutSymbols(t *testing.T) {
	k, path := build(t, "m.ko", kmodtest.Spec{Depends: []string{"core"}})
	err := load(t, k, path, kernel.LoadRequest{})
	assert.Equal(t, kernel.UnknownSymbol, kernel.CauseOf(err))
	require.ErrorContains(t, err, "m: Unknown symbol core_symbol (err -2)")
	_, core := build(t, "core.ko", kmodtest.Spec{})
	k.Preload(core, "")
	require.NoError(t, load(t, k, path, kernel.LoadRequest{}))
	m, err := k.Module("core")
	require.NoError(t, err)
	assert.Equal(t, []string{"m"}, m.UsedBy)
}

func TestSymbols(t *testing.T) {
	k, path := build(t, "m.ko", kmodtest.Spec{Imports: []string{"a", "b", "c"}})
	k.AddSymbols("b")
	err := load(t, k, path, kernel.LoadRequest{})
	require.ErrorContains(t, err, `"m: Unknown symbol a (err -2)", "m: Unknown symbol c (err -2)"`)
	k.AddSymbols("a", "c")
	require.NoError(t, load(t, k, path, kernel.LoadRequest{}))
}

func TestTaint(t *testing.T) {
	tests := []struct {
		name    string
		spec    kmodtest.Spec
		request kernel.LoadRequest
		want    string
	}{
		{"in tree", kmodtest.Spec{InTree: true}, kernel.LoadRequest{}, ""},
		{"out of tree", kmodtest.Spec{}, kernel.LoadRequest{}, "OE"},
		{"proprietary", kmodtest.Spec{License: "Proprietary"}, kernel.LoadRequest{}, "POE"},
		{"dual license", kmodtest.Spec{License: "Dual BSD/GPL"}, kernel.LoadRequest{}, "OE"},
		{"forced", kmodtest.Spec{}, kernel.LoadRequest{IgnoreModversions: true}, "FOE"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			k, path := build(t, "m.ko", tt.spec)
			require.NoError(t, load(t, k, path, tt.request))
			m, err := k.Module("m")
			require.NoError(t, err)
			assert.Equal(t, tt.want, m.Taint)
		})
	}
}

func TestCompressed(t *testing.T) {
	k, path := build(t, "m.ko.xz", kmodtest.Spec{})
	err := load(t, k, path, kernel.LoadRequest{})
	assert.Equal(t, kernel.NotAModule, kernel.CauseOf(err))
	require.ErrorIs(t, load(t, k, path, kernel.LoadRequest{Compressed: true}), syscall.EOPNOTSUPP)
	k.SetCompression("zstd")
	require.ErrorIs(t, load(t, k, path, kernel.LoadRequest{Compressed: true}), syscall.EINVAL)
	k.SetCompression("xz")
	require.NoError(t, load(t, k, path, kernel.LoadRequest{Compressed: true}))
	assert.Equal(t, "load m compressed", k.Calls()[3])
}

func TestAutoload(t *testing.T) {
	k, path := build(t, "m.ko", kmodtest.Spec{})
	require.NoError(t, k.HoldAutoload([]string{"m"}))
	assert.False(t, k.Autoload("m", path))
	require.NoError(t, k.HoldAutoload(nil))
	assert.True(t, k.Autoload("m", path))
	assert.False(t, k.Autoload("m", path), "it is there already")
}

func TestCalls(t *testing.T) {
	k, path := build(t, "m.ko", kmodtest.Spec{Params: []kmodtest.Param{{Name: "level", Type: "int"}}})
	var hooked []string
	k.OnCall(func(call string) {
		_, err := k.Module("m")
		if hooked = append(hooked, call); call == "unload m" {
			require.NoError(t, err, "the hook runs before the call")
		}
	})
	require.NoError(t, load(t, k, path, kernel.LoadRequest{Parameters: "level=1"}))
	require.Error(t, load(t, k, path, kernel.LoadRequest{IgnoreVermagic: true, IgnoreModversions: true}))
	require.NoError(t, k.HoldAutoload([]string{"b", "a"}))
	require.NoError(t, k.HoldAutoload([]string{"a", "b"}))
	require.NoError(t, k.SetFirmwarePath("/fw"))
	require.NoError(t, k.SetFirmwarePath(""))
	require.NoError(t, k.Unload(t.Context(), "m", 0))
	require.NoError(t, k.HoldAutoload(nil))
	want := []string{"load m level=1", "load m ignore-vermagic ignore-modversions", "hold a b", "firmware-path /fw",
		"firmware-path", "unload m", "hold"}
	assert.Equal(t, want, k.Calls())
	assert.Equal(t, want, hooked)
	k.ResetCalls()
	assert.Empty(t, k.Calls())
}

func TestReboot(t *testing.T) {
	k, path := build(t, "m.ko", kmodtest.Spec{})
	k.Preload(path, "unknown=1")
	assert.Equal(t, []string{"m: unknown parameter 'unknown' ignored"}, k.Log())
	require.NoError(t, k.SetFirmwarePath("/fw"))
	require.NoError(t, k.HoldAutoload([]string{"m"}))
	boot := k.BootID()
	k.Reboot("6.12.0")
	assert.Equal(t, "6.12.0", k.Release())
	assert.NotEqual(t, boot, k.BootID())
	list, err := k.Modules()
	require.NoError(t, err)
	assert.Empty(t, list)
	fw, err := k.FirmwarePath()
	require.NoError(t, err)
	assert.Empty(t, fw)
	held, err := k.Held()
	require.NoError(t, err)
	assert.Empty(t, held)
}

// TestWatchOthers: somebody else's changes are seen too, and a refused load is no event.
func TestWatchOthers(t *testing.T) {
	k, path := build(t, "m.ko", kmodtest.Spec{})
	ctx, cancel := context.WithCancel(t.Context())
	changed, ended := make(chan string), make(chan error, 1)
	ready := make(chan struct{})
	go func() {
		ended <- k.WatchModules(ctx, func() { close(ready) }, func() {
			state := "gone"
			if _, err := k.Module("m"); err == nil {
				state = "there"
			}
			changed <- state
		})
	}()
	<-ready
	k.FailInit("m", syscall.ENODEV)
	assert.False(t, k.Autoload("m", path))
	k.FailInit("m", 0)
	assert.True(t, k.Autoload("m", path))
	assert.Equal(t, "there", <-changed)
	require.NoError(t, k.Rmmod("m"))
	assert.Equal(t, "gone", <-changed)
	cancel()
	require.NoError(t, <-ended)
}
