// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/kmm-node/kmmd/test/faults/state"
)

// Where things are: kmmd's defaults, as on a real node.
const (
	documents   = "/etc/kmmd/modules.d"
	stateDir    = "/var/lib/kmmd"
	runDir      = "/run/kmmd"
	firmwareDir = "/var/lib/firmware"
	holdFile    = "/run/modprobe.d/00-kmmd.conf"
	pathFile    = "/sys/module/firmware_class/parameters/path"

	modules = "/kmmd-test/modules"
	binary  = "/usr/bin/kmmd"
	staging = ".kmmd-staging" // in firmwareDir, while a change of it goes on
)

var dirs = state.Dirs{State: stateDir, Run: runDir, Firmware: firmwareDir}

// names are the modules that are looked at, users before what they use.
var names = []string{"kmm_dep", "kmm_base", "kmm_fw", "dummy", "null_blk"}

// look reads the node's state; what no sound node has is a failure. A child whose
// kmmd is stopped goes on: what it loads or removes is waited for.
func look(t *testing.T) state.State {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(tick) {
		s, err := state.Read(state.Node{Firmware: firmwareDir, Names: names})
		if errors.Is(err, state.ErrModule) && time.Now().Before(deadline) {
			continue
		}
		require.NoError(t, err)
		return s
	}
}

func line(t *testing.T, path string) string {
	t.Helper()
	s, err := os.ReadFile(path)
	require.NoError(t, err)
	return strings.TrimSpace(string(s))
}

func release(t *testing.T) string { return line(t, "/proc/sys/kernel/osrelease") }
func bootID(t *testing.T) string  { return line(t, "/proc/sys/kernel/random/boot_id") }

// wipe makes the node one that has never had a kmmd: no documents, no files of
// kmmd, none of the modules.
func wipe(t *testing.T) {
	t.Helper()
	unload(t)
	for _, path := range []string{documents, stateDir, runDir, firmwareDir, holdFile} {
		require.NoError(t, os.RemoveAll(path))
	}
	require.NoError(t, os.WriteFile(pathFile, []byte{0}, 0o644))
	require.NoError(t, os.MkdirAll(documents, 0o755))
}

// unload removes the modules that are there.
func unload(t *testing.T) {
	t.Helper()
	for _, name := range names {
		err := unix.DeleteModule(name, unix.O_NONBLOCK)
		if !errors.Is(err, unix.ENOENT) {
			require.NoError(t, err, "rmmod %s", name)
		}
	}
}

// module is a module file and how it is loaded.
type module struct {
	name   string
	file   string // below modules; "" is the node's own
	params string // as finit_module(2) takes them, and as sysfs shows each
}

// path is the module's file.
func (m module) path(t *testing.T) string {
	t.Helper()
	if m.file != "" {
		return filepath.Join(modules, m.file)
	}
	root := filepath.Join("/lib/modules", release(t))
	deps, err := os.ReadFile(filepath.Join(root, "modules.dep"))
	require.NoError(t, err)
	for line := range strings.Lines(string(deps)) {
		file, _, _ := strings.Cut(line, ":")
		if strings.HasPrefix(filepath.Base(file), m.name+".ko") {
			return filepath.Join(root, file)
		}
	}
	require.Fail(t, "the node has no such module", m.name)
	return ""
}

// load loads it as insmod does.
func (m module) load(t *testing.T) {
	t.Helper()
	f, err := os.Open(m.path(t))
	require.NoError(t, err)
	defer f.Close()
	flags := 0
	if filepath.Ext(f.Name()) == ".xz" {
		flags = unix.MODULE_INIT_COMPRESSED_FILE
	}
	require.NoError(t, unix.FinitModule(int(f.Fd()), m.params, flags), "insmod %s %s", f.Name(), m.params)
}

// inTree are the build-ids of the node's own modules, as the kernel shows them
// when they are loaded first.
var inTree = map[string]string{}

// state is what the kernel shows of it.
func (m module) state(t *testing.T) state.Module {
	t.Helper()
	s := state.Module{BuildID: inTree[m.name], Parameters: map[string]string{}}
	if m.file != "" {
		var err error
		s.BuildID, err = state.FileBuildID(m.path(t))
		require.NoError(t, err)
	}
	require.NotEmpty(t, s.BuildID, m.name)
	for _, p := range strings.Fields(m.params) {
		name, value, _ := strings.Cut(p, "=")
		s.Parameters[name] = value
	}
	return s
}
