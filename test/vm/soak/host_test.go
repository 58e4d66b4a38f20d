// SPDX-License-Identifier: Apache-2.0

package soak

import (
	"bytes"
	"debug/elf"
	"encoding/hex"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// host is the machine as the checker sees it: the kernel's files and those that
// kmmd puts on the host, read without kmmd.
type host struct {
	release string
	dir     string            // docs/ state/ run/ firmware/ kmmd.toml
	inTree  map[string]string // build-ids of the kernel's own modules of these names
	others  []string          // modules that run and that nobody is to touch
	kmsg    int               // the kernel's log from where it was read to
	events  string            // a file that takes "add"
}

// running is a module in the kernel.
type running struct {
	buildID string
	refs    int
	state   string
}

// inTreeModules are modules of the kernel's own that documents have removed.
func inTreeModules() []string { return []string{"dummy", "null_blk"} }

// tracked are the modules that documents are about.
func tracked() []string {
	return append(inTreeModules(), "kmm_base", "kmm_dep", "kmm_softdep", "kmm_fw", "kmm_sleep", "kmm_fail")
}

func openHost(s *soak) *host {
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	require.NoError(s, err)
	h := &host{release: strings.TrimSpace(string(release)), dir: s.TempDir(), inTree: map[string]string{}}
	for _, name := range inTreeModules() {
		require.NoError(s, h.modprobe(name))
		h.inTree[name] = h.modules(s)[name].buildID
		require.NotEmpty(s, h.inTree[name])
		require.NoError(s, unix.DeleteModule(name, 0))
	}
	for name := range h.modules(s) {
		h.others = append(h.others, name)
	}
	slices.Sort(h.others)
	require.NotContains(s, h.others, "kmm_base")
	events, err := filepath.Glob("/sys/module/*/uevent")
	require.NoError(s, err)
	require.NotEmpty(s, events)
	h.events = events[0]
	h.kmsg, err = unix.Open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	require.NoError(s, err)
	s.Cleanup(func() { _ = unix.Close(h.kmsg) })
	return h
}

func (h *host) path(parts ...string) string {
	return filepath.Join(append([]string{h.dir}, parts...)...)
}

// modules reads /proc/modules, and the build-id of each from sysfs.
func (h *host) modules(s *soak) map[string]running {
	s.Helper()
	text, err := os.ReadFile("/proc/modules")
	require.NoError(s, err)
	out := map[string]running{}
	for line := range strings.Lines(string(text)) {
		// dummy 16384 0 - Live 0x0000000000000000 (OE)
		f := strings.Fields(line)
		require.GreaterOrEqual(s, len(f), 6, line)
		refs, err := strconv.Atoi(f[2])
		require.NoError(s, err, line)
		// Two words of sizes, one of the kind, "GNU\0"; what follows is the build-id.
		note, err := os.ReadFile("/sys/module/" + f[0] + "/notes/.note.gnu.build-id")
		if err != nil || len(note) != 36 {
			note = make([]byte, 16) // going away just now
		}
		out[f[0]] = running{buildID: hex.EncodeToString(note[16:]), refs: refs, state: f[4]}
	}
	return out
}

// parameter is what sysfs shows.
func (h *host) parameter(module, name string) string {
	text, err := os.ReadFile("/sys/module/" + module + "/parameters/" + name)
	if err != nil {
		return err.Error()
	}
	return strings.TrimSuffix(string(text), "\n")
}

// firmware are the files in the firmware directory, whoever put them there.
func (h *host) firmware(s *soak) map[string]string {
	s.Helper()
	out := map[string]string{}
	root := h.path("firmware")
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		name, _ := filepath.Rel(root, path)
		out[name] = string(data)
		return err
	})
	if err != nil && !os.IsNotExist(err) {
		return map[string]string{"": err.Error()} // changed while it was read
	}
	return out
}

func (h *host) firmwarePath(s *soak) string {
	s.Helper()
	text, err := os.ReadFile("/sys/module/firmware_class/parameters/path")
	require.NoError(s, err)
	return strings.TrimRight(string(text), "\n\x00")
}

// held are the modules that modprobe will not load, by what all files say
// together.
func (h *host) held(s *soak) []string {
	s.Helper()
	paths, err := filepath.Glob("/run/modprobe.d/*.conf")
	require.NoError(s, err)
	var out []string
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // replaced just now
		}
		for line := range strings.Lines(string(text)) {
			if f := strings.Fields(line); len(f) == 3 && f[0] == "install" && f[2] == "/bin/false" {
				out = append(out, f[1])
			}
		}
	}
	slices.Sort(out)
	return out
}

// modprobe is the real one; it says what modprobe said.
func (h *host) modprobe(args ...string) error { return exec.Command("modprobe", args...).Run() }

// insmod loads a file as it is.
func (h *host) insmod(s *soak, image []byte, parameters string) error {
	s.Helper()
	fd, err := unix.MemfdCreate("module", unix.MFD_CLOEXEC)
	require.NoError(s, err)
	defer unix.Close(fd)
	_, err = unix.Write(fd, image)
	require.NoError(s, err)
	return unix.FinitModule(fd, parameters, 0)
}

// event has the kernel send one module event.
func (h *host) event(s *soak) {
	s.Helper()
	require.NoError(s, os.WriteFile(h.events, []byte("add"), 0o200))
}

// quiet requires that the kernel has complained of nothing since the last call.
func (h *host) quiet(s *soak) {
	s.Helper()
	buf := make([]byte, 8<<10)
	for {
		n, err := unix.Read(h.kmsg, buf)
		if err == unix.EPIPE { // records were overwritten before we read them
			continue
		}
		if err != nil || n == 0 {
			return
		}
		head, text, _ := strings.Cut(string(buf[:n]), ";")
		if prio, _ := strconv.Atoi(strings.Split(head, ",")[0]); prio>>3 != 0 {
			continue // not the kernel's own words
		}
		for _, bad := range []string{"BUG:", "Oops", "WARNING:", "Call Trace", "general protection", "refcount_t", "leaked"} {
			assert.NotContains(s, text, bad, "the kernel's log")
		}
	}
}

// withBuildID gives a module another build-id: to the kernel, and to all who ask
// it, that is another build.
func withBuildID(s *soak, file string, id []byte) []byte {
	s.Helper()
	data, err := os.ReadFile(filepath.Join(modules, file))
	require.NoError(s, err)
	f, err := elf.NewFile(bytes.NewReader(data))
	require.NoError(s, err)
	note := f.Section(".note.gnu.build-id")
	require.NotNil(s, note, file)
	require.Len(s, id, int(note.Size)-16)
	copy(data[note.Offset+16:note.Offset+note.Size], id)
	return data
}
