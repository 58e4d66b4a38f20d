// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// States of a module, in the words of /sys/module/M/initstate.
const (
	StateLive   = "live"
	StateComing = "coming" // its init function runs; for ever so, if that function died in an oops
	StateGoing  = "going"  // its exit function runs
)

// maxName is the longest module name (MODULE_NAME_LEN is 56 with its NUL on 64 bit, include/linux/moduleparam.h);
// delete_module(2) cuts a longer one in silence and would then remove another module.
const maxName = 55

// Module is what the kernel tells about one module it has.
type Module struct {
	Name      string   `json:"name"`
	Size      int64    `json:"size"`
	Refs      int      `json:"refs"`             // -1 while going, or when the kernel does not count (CONFIG_MODULE_UNLOAD off)
	UsedBy    []string `json:"usedBy,omitempty"` // the modules that use its symbols; each is one of Refs
	State     string   `json:"state"`            // StateLive, StateComing, StateGoing
	Permanent bool     `json:"permanent,omitempty"`
	Taint     string   `json:"taint,omitempty"` // letters, "OE" for an unsigned out-of-tree module

	// Address is where its code lies, 0 when the kernel hides that (kptr_restrict, CAP_SYSLOG).
	Address uint64 `json:"-"`

	// Only filled for modules that are looked at closer.
	BuildID    string            `json:"buildID,omitempty"` // hex of .note.gnu.build-id
	SrcVersion string            `json:"srcVersion,omitempty"`
	Version    string            `json:"version,omitempty"`
	Parameters map[string]string `json:"parameters,omitempty"` // the readable ones, as the kernel prints them
}

// Modules returns every loadable module the kernel has, newest first, as /proc/modules lists them: without BuildID,
// versions and Parameters, but for those that closer names, see Module. Built-in ones are not among them. The order of
// UsedBy is the kernel's. No privilege is needed.
func (h *Host) Modules(closer ...string) ([]Module, error) {
	b, err := readFile(h.path("proc/modules"))
	if err != nil {
		return nil, fmt.Errorf("list modules: %w", err)
	}
	ms, err := parseModules(string(b))
	if err != nil {
		return nil, fmt.Errorf("list modules: %w", err)
	}
	kept := ms[:0]
	for _, m := range ms {
		if slices.Contains(closer, m.Name) && !h.addSysfs(&m) && m.State != StateComing {
			continue // gone since the list was read; one that is coming is listed before it has a directory
		}
		kept = append(kept, m)
	}
	h.forgetGone(kept)
	return kept, nil
}

// Module returns one module, found in /proc/modules, with what /sys/module/NAME adds: build id, versions and the
// readable parameters. The name is compared as it is, as the kernel does: '-' is not '_'. ErrNotLoaded when there is
// no such loadable module, a built-in one included. A module on its way out may lack what sysfs had. Parameters that
// only root may read need root.
func (h *Host) Module(name string) (Module, error) {
	ms, err := h.Modules(name)
	if err != nil {
		return Module{}, err
	}
	for _, m := range ms {
		if m.Name == name {
			return m, nil
		}
	}
	return Module{}, fmt.Errorf("module %s: %w", name, ErrNotLoaded)
}

// Running tells, as Module does and with less work, the state of a loaded module and which build it is. ErrNotLoaded when
// there is none, or not any more.
func (h *Host) Running(name string) (state, buildID string, err error) {
	// Its one line; a built-in module has a directory, too, but no such file (kernel/module/main.c, show_initstate).
	if state, err = h.readLine("sys/module/" + name + "/initstate"); err != nil || name == "" || name != filepath.Base(name) {
		return "", "", fmt.Errorf("module %s: %w", name, ErrNotLoaded)
	}
	return state, h.BuildID(name), nil
}

// inSysfs is what /sys/module/NAME says once and for all: it is made with the module, and goes with it.
type inSysfs struct {
	// inode is that of the directory. The next module of that name has another one: numbers are given in turn
	// (fs/kernfs/dir.c, __kernfs_new_node; Linux 4.14).
	inode                        uint64
	srcVersion, version, buildID string
	parameters                   []string // names
}

// addSysfs fills what only /sys/module/NAME knows, and is false when there is no such directory any more. What can not be
// read stays empty: srcversion exists only for modules with a version, notes only with CONFIG_KALLSYMS
// (kernel/module/sysfs.c).
func (h *Host) addSysfs(m *Module) bool {
	dir := "sys/module/" + m.Name + "/"
	var st unix.Stat_t
	if _, err := again(func() (int, error) { return 0, unix.Stat(h.path(dir), &st) }); err != nil {
		return false
	}
	h.mu.Lock()
	s, known := h.seen[m.Name]
	h.mu.Unlock()
	if !known || s.inode != st.Ino {
		s = h.readSysfs(m.Name, st.Ino)
		// While the module comes, not all is there yet.
		if h.sysfs && m.State == StateLive && s.buildID != "" {
			h.mu.Lock()
			if h.seen == nil {
				h.seen = map[string]inSysfs{}
			}
			h.seen[m.Name] = s
			h.mu.Unlock()
		}
	}
	m.SrcVersion, m.Version, m.BuildID = s.srcVersion, s.version, s.buildID
	if s.parameters == nil {
		return true
	}
	m.Parameters = make(map[string]string, len(s.parameters))
	for _, name := range s.parameters {
		if v, err := h.readLine(dir + "parameters/" + name); err == nil {
			m.Parameters[name] = v
		}
	}
	return true
}

func (h *Host) readSysfs(name string, inode uint64) inSysfs {
	dir := "sys/module/" + name + "/"
	s := inSysfs{inode: inode, buildID: h.BuildID(name)}
	s.srcVersion, _ = h.readLine(dir + "srcversion")
	s.version, _ = h.readLine(dir + "version")
	entries, err := os.ReadDir(h.path(dir, "parameters"))
	if err != nil {
		return s
	}
	s.parameters = make([]string, 0, len(entries))
	for _, e := range entries {
		s.parameters = append(s.parameters, e.Name())
	}
	return s
}

// forgetGone drops what is known of modules that do not run any more.
func (h *Host) forgetGone(running []Module) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.seen) > len(running) {
		maps.DeleteFunc(h.seen, func(name string, _ inSysfs) bool {
			return !slices.ContainsFunc(running, func(m Module) bool { return m.Name == name })
		})
	}
}

// BuildID is that of Module, and nothing else of it; "" when the kernel does not tell.
func (h *Host) BuildID(name string) string {
	b, err := readFile(h.path("sys/module", name, "notes/.note.gnu.build-id"))
	if err != nil {
		return ""
	}
	return buildID(b)
}

// parseModules reads lines as m_show of kernel/module/procfs.c writes them:
//
//	kmm_base 16384 1 kmm_dep, Live 0xffffffffc0451000 (OE)
//	nf_log_syslog 20480 0 - Live 0x0000000000000000
//	vsock 53248 2 [permanent], Loading 0x0000000000000000 (OE+)
func parseModules(text string) ([]Module, error) {
	var ms []Module
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 5 {
			return nil, fmt.Errorf("parse /proc/modules: line %q", line)
		}
		m := Module{Name: f[0], Refs: -1}
		var err error
		if m.Size, err = strconv.ParseInt(f[1], 10, 64); err != nil {
			return nil, fmt.Errorf("parse /proc/modules: size of %s: %w", m.Name, err)
		}
		if f[2] != "-" {
			if m.Refs, err = strconv.Atoi(f[2]); err != nil {
				return nil, fmt.Errorf("parse /proc/modules: references of %s: %w", m.Name, err)
			}
		}
		m.UsedBy, m.Permanent = parseUsers(f[3])
		if m.State, err = parseState(f[4]); err != nil {
			return nil, fmt.Errorf("parse /proc/modules: %s: %w", m.Name, err)
		}
		if len(f) > 5 {
			m.Address, _ = strconv.ParseUint(strings.TrimPrefix(f[5], "0x"), 16, 64)
		}
		if len(f) > 6 {
			m.Taint = strings.Trim(f[6], "()+-")
		}
		ms = append(ms, m)
	}
	return ms, nil
}

// parseUsers reads "-", "a,b," or "a,[permanent],".
func parseUsers(s string) (users []string, permanent bool) {
	if s == "-" {
		return nil, false
	}
	for u := range strings.SplitSeq(s, ",") {
		switch u {
		case "":
		case "[permanent]":
			permanent = true
		default:
			users = append(users, u)
		}
	}
	return users, permanent
}

func parseState(s string) (string, error) {
	switch s {
	case "Live":
		return StateLive, nil
	case "Loading":
		return StateComing, nil
	case "Unloading":
		return StateGoing, nil
	}
	return "", fmt.Errorf("unknown state %q", s)
}
