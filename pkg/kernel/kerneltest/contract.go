// SPDX-License-Identifier: Apache-2.0

package kerneltest

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/kernel"
)

const timeout = time.Minute

// TestLoader checks the rules that the agent relies on. newLoader is called once for each rule; the modules of the
// fixture must not be loaded then, and are not loaded afterwards.
func TestLoader(t *testing.T, newLoader func(t *testing.T) Fixture) {
	tests := []struct {
		name string
		run  func(t *testing.T, f Fixture)
	}{
		{"identity", testIdentity},
		{"load", testLoad},
		{"parameters", testParameters},
		{"same name", testSameName},
		{"dependency", testDependency},
		{"together", testTogether},
		{"reference", testReference},
		{"refused", testRefused},
		{"not loaded", testNotLoaded},
		{"wrong file", testWrongFile},
		{"compressed", testCompressed},
		{"firmware", testFirmware},
		{"write", testWrite},
		{"hold", testHold},
		{"watch", testWatch},
		{"done context", testDoneContext},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { tt.run(t, newLoader(t)) })
	}
}

// load loads a file of the fixture and unloads it when the test ends.
func (f Fixture) load(t *testing.T, path, name, params string) {
	t.Helper()
	err := f.Kernel.Load(t.Context(), kernel.LoadRequest{Name: name, File: f.file(t, path), Parameters: params, Timeout: timeout})
	require.NoError(t, err)
	t.Cleanup(func() {
		if _, err := f.Kernel.Module(name); err == nil {
			assert.NoError(t, f.Kernel.Unload(context.Background(), name, timeout))
		}
	})
}

// refuse loads a file that the kernel must not take.
func (f Fixture) refuse(t *testing.T, path, name, params string) error {
	t.Helper()
	err := f.Kernel.Load(t.Context(), kernel.LoadRequest{Name: name, File: f.file(t, path), Parameters: params, Timeout: timeout})
	require.Error(t, err)
	var e *kernel.Error
	require.ErrorAs(t, err, &e)
	assert.Equal(t, "load", e.Op)
	assert.Equal(t, name, e.Module)
	return err
}

func testWrite(t *testing.T, f Fixture) {
	path := filepath.Join(t.TempDir(), "unbind")
	file, err := os.Create(path)
	require.NoError(t, err)
	defer file.Close()
	require.NoError(t, f.Kernel.Write(t.Context(), kernel.WriteRequest{Device: "0000:00:02.0", File: file, Text: "0000:00:02.0", Timeout: timeout}))
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.Equal(t, "0000:00:02.0", string(text))
	require.NoError(t, f.Kernel.Hanging("0000:00:02.0"), "it has answered")
}

func testIdentity(t *testing.T, f Fixture) {
	assert.NotEmpty(t, f.Kernel.Release())
	assert.Regexp(t, "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$", f.Kernel.BootID())
}

func testLoad(t *testing.T, f Fixture) {
	f.load(t, "kmm_base.ko", "kmm_base", "level=5")
	m, err := f.Kernel.Module("kmm_base")
	require.NoError(t, err)
	assert.Equal(t, "kmm_base", m.Name)
	assert.Positive(t, m.Size)
	assert.Zero(t, m.Refs)
	assert.Empty(t, m.UsedBy)
	assert.Equal(t, kernel.StateLive, m.State)
	assert.False(t, m.Permanent)
	assert.Equal(t, "OE", m.Taint)
	assert.Len(t, m.BuildID, 40)
	assert.Equal(t, "1.0", m.Version)
	assert.NotEmpty(t, m.SrcVersion)
	assert.Equal(t, "5", m.Parameters["level"])
	state, build, err := f.Kernel.Running("kmm_base")
	require.NoError(t, err)
	assert.Equal(t, []string{m.State, m.BuildID}, []string{state, build})

	list, err := f.Kernel.Modules()
	require.NoError(t, err)
	require.NotEmpty(t, list)
	assert.Equal(t, "kmm_base", list[0].Name)
	assert.Equal(t, m.Size, list[0].Size)
	assert.Empty(t, list[0].BuildID)
	assert.Nil(t, list[0].Parameters)

	require.NoError(t, f.Kernel.Unload(t.Context(), "kmm_base", timeout))
	_, err = f.Kernel.Module("kmm_base")
	assert.ErrorIs(t, err, kernel.ErrNotLoaded)
	for _, name := range []string{"kmm_base", "firmware_class", "", "..", "../module/kmm_base"} {
		_, _, err = f.Kernel.Running(name)
		assert.ErrorIs(t, err, kernel.ErrNotLoaded, name)
	}
}

func testParameters(t *testing.T, f Fixture) {
	tests := []struct {
		params string
		name   string
		shown  string // "" for a value the kernel refuses
		errno  syscall.Errno
	}{
		{params: "level=-7", name: "level", shown: "-7"},
		{params: "level=0x10", name: "level", shown: "16"},
		{params: "level=010", name: "level", shown: "8"},
		{params: "level=1 level=2", name: "level", shown: "2"},
		{params: "level=1\tcount=3\n", name: "count", shown: "3"},
		{params: "flag", name: "flag", shown: "Y"},
		{params: "flag=yolo", name: "flag", shown: "Y"},
		{params: "flag=off", name: "flag", shown: "N"},
		{params: "negated=1", name: "negated", shown: "Y"},
		{params: "switched=1", name: "switched", shown: "1"},
		{params: "switched=0", name: "switched", shown: "0"},
		{params: "switched", name: "switched", shown: "1"},
		{params: "switched=12", name: "switched", shown: "1"},
		{params: `label="a b"`, name: "label", shown: "a b"},
		{params: `"label=a b"`, name: "label", shown: "a b"},
		{params: `label=a"b c"d`, name: "label", shown: `a"b c"d`},
		{params: "label='a", name: "label", shown: "'a"},
		{params: "list=1,2,3", name: "list", shown: "1,2,3"},
		{params: "big=18446744073709551615", name: "big", shown: "18446744073709551615"},
		{params: "unknown=1 level=4", name: "level", shown: "4"},
		{params: "level=4 -- level=5", name: "level", shown: "4"},
		{params: "level=abc", errno: syscall.EINVAL},
		{params: "level", errno: syscall.EINVAL},
		{params: "level=", errno: syscall.EINVAL},
		{params: "flag=maybe", errno: syscall.EINVAL},
		{params: "switched=2", errno: syscall.EINVAL},
		{params: "switched=-1", errno: syscall.EINVAL},
		{params: "octet=256", errno: syscall.ERANGE},
		{params: "count=-1", errno: syscall.EINVAL},
		{params: "list=1,x", errno: syscall.EINVAL},
		{params: "label=" + strings.Repeat("x", 1025), errno: syscall.ENOSPC},
		{params: "level=abc count=1", errno: syscall.EINVAL},
	}
	for _, tt := range tests {
		t.Run(tt.params[:min(len(tt.params), 40)], func(t *testing.T) {
			if tt.errno != 0 {
				err := f.refuse(t, "kmm_base.ko", "kmm_base", tt.params)
				require.ErrorIs(t, err, tt.errno)
				assert.Equal(t, kernel.InvalidParameter, kernel.CauseOf(err), "%v", err)
				return
			}
			f.load(t, "kmm_base.ko", "kmm_base", tt.params)
			m, err := f.Kernel.Module("kmm_base")
			require.NoError(t, err)
			assert.Equal(t, tt.shown, m.Parameters[tt.name])
		})
	}
}

func testSameName(t *testing.T, f Fixture) {
	f.load(t, f.InTree, "dummy", "")
	inTree, err := f.Kernel.Module("dummy")
	require.NoError(t, err)
	assert.Empty(t, inTree.Taint)

	for _, path := range []string{"dummy.ko", f.InTree} {
		err := f.refuse(t, path, "dummy", "")
		require.ErrorIs(t, err, kernel.ErrLoaded)
		require.ErrorIs(t, err, syscall.EEXIST)
		assert.Equal(t, kernel.AlreadyLoaded, kernel.CauseOf(err))
	}
	require.NoError(t, f.Kernel.Unload(t.Context(), "dummy", timeout))

	f.load(t, "dummy.ko", "dummy", "")
	ours, err := f.Kernel.Module("dummy")
	require.NoError(t, err)
	assert.Contains(t, ours.Taint, "O")
	assert.NotEqual(t, inTree.BuildID, ours.BuildID)
	require.NoError(t, f.Kernel.Unload(t.Context(), "dummy", timeout))

	f.load(t, "variants/second/dummy.ko", "dummy", "")
	second, err := f.Kernel.Module("dummy")
	require.NoError(t, err)
	assert.NotEqual(t, ours.BuildID, second.BuildID)
}

func testDependency(t *testing.T, f Fixture) {
	err := f.refuse(t, "kmm_dep.ko", "kmm_dep", "")
	require.ErrorIs(t, err, syscall.ENOENT)
	assert.Equal(t, kernel.UnknownSymbol, kernel.CauseOf(err))
	assert.ErrorContains(t, err, "kmm_dep: Unknown symbol kmm_base_hello (err -2)")

	f.load(t, "kmm_base.ko", "kmm_base", "")
	f.load(t, "kmm_dep.ko", "kmm_dep", "")
	base, err := f.Kernel.Module("kmm_base")
	require.NoError(t, err)
	assert.Equal(t, 1, base.Refs)
	assert.Equal(t, []string{"kmm_dep"}, base.UsedBy)
	list, err := f.Kernel.Modules()
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(list), 2)
	assert.Equal(t, []string{"kmm_dep", "kmm_base"}, []string{list[0].Name, list[1].Name}, "the newest is first")
	assert.Equal(t, base.UsedBy, list[1].UsedBy)

	err = f.Kernel.Unload(t.Context(), "kmm_base", timeout)
	require.ErrorIs(t, err, kernel.ErrInUse)
	require.ErrorIs(t, err, syscall.EAGAIN)
	assert.Equal(t, kernel.InUse, kernel.CauseOf(err))

	require.NoError(t, f.Kernel.Unload(t.Context(), "kmm_dep", timeout))
	base, err = f.Kernel.Module("kmm_base")
	require.NoError(t, err)
	assert.Zero(t, base.Refs)
	require.NoError(t, f.Kernel.Unload(t.Context(), "kmm_base", timeout))
}

// testTogether: what LoadAll has tried was tried in order, up to the first failure, and the rest is left to Load.
func testTogether(t *testing.T, f Fixture) {
	request := func(path, name string) kernel.LoadRequest {
		return kernel.LoadRequest{Name: name, File: f.file(t, path), Timeout: timeout}
	}
	unload := func(names ...string) {
		for _, name := range names {
			require.NoError(t, f.Kernel.Unload(t.Context(), name, timeout))
		}
	}
	base, dep := request("kmm_base.ko", "kmm_base"), request("kmm_dep.ko", "kmm_dep")
	base.Parameters = "level=3"
	done := f.Kernel.LoadAll(t.Context(), []kernel.LoadRequest{base, dep})
	require.Len(t, done, 2)
	for _, d := range done {
		require.NoError(t, d.Err)
		assert.Positive(t, d.Took)
	}
	m, err := f.Kernel.Module("kmm_base")
	require.NoError(t, err)
	assert.Equal(t, "3", m.Parameters["level"])
	assert.Equal(t, []string{"kmm_dep"}, m.UsedBy)
	unload("kmm_dep", "kmm_base")

	done = f.Kernel.LoadAll(t.Context(), []kernel.LoadRequest{base, request("kmm_fail.ko", "kmm_fail"), dep})
	require.Len(t, done, 2, "what comes after a failure is not tried")
	require.NoError(t, done[0].Err)
	require.ErrorIs(t, done[1].Err, syscall.ENODEV)
	var e *kernel.Error
	require.ErrorAs(t, done[1].Err, &e)
	assert.Equal(t, "kmm_fail", e.Module)
	assert.Contains(t, strings.Join(e.Log, "\n"), "kmm_fail: no such hardware (-19)")
	_, err = f.Kernel.Module("kmm_dep")
	require.ErrorIs(t, err, kernel.ErrNotLoaded)
	require.NoError(t, f.Kernel.Load(t.Context(), dep), "and can be")
	unload("kmm_dep", "kmm_base")

	done = f.Kernel.LoadAll(t.Context(), []kernel.LoadRequest{dep, base})
	require.Len(t, done, 1)
	require.ErrorIs(t, done[0].Err, syscall.ENOENT)
	_, err = f.Kernel.Module("kmm_base")
	require.ErrorIs(t, err, kernel.ErrNotLoaded)
}

func testReference(t *testing.T, f Fixture) {
	f.load(t, "kmm_base.ko", "kmm_base", "")
	release := f.Reference(t)
	m, err := f.Kernel.Module("kmm_base")
	require.NoError(t, err)
	assert.Equal(t, 1, m.Refs)
	assert.Empty(t, m.UsedBy)
	require.ErrorIs(t, f.Kernel.Unload(t.Context(), "kmm_base", timeout), kernel.ErrInUse)
	release()
	require.NoError(t, f.Kernel.Unload(t.Context(), "kmm_base", timeout))
}
