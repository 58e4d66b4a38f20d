// SPDX-License-Identifier: Apache-2.0

// Package state looks at what a node is: its kernel's modules, its firmware, what
// is held off from being loaded. It compares that with the states that a test
// allows. It reads files itself and asks no code of the product, so that both do
// not err in the same way. Tests only.
package state

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Module is one module as the kernel has it.
type Module struct {
	BuildID    string            // lower-case hex
	Parameters map[string]string // as /sys/module/NAME/parameters shows them; of a wanted state, those that matter
}

// State is what a node is, as far as modules of interest go.
type State struct {
	Modules  map[string]Module // of those asked for, the ones that are there, live
	Firmware map[string]string // content by path below the firmware directory
	Path     string            // firmware_class.path
	Held     []string          // modules that modprobe does not load, sorted
}

// Node says where to look.
type Node struct {
	Root     string   // "" is /: proc, sys and run are below
	Firmware string   // the firmware directory
	Names    []string // of modules of interest, as the kernel spells them
}

// ErrModule is in what Read says of a module. One that is just being loaded or
// removed is soon there or gone: look again.
var ErrModule = errors.New("modules")

// Read looks at a node. It fails when there is what no sound node ever has: a
// module of interest that is not live, a line of the hold file that belongs to no
// module.
func Read(n Node) (State, error) {
	s := State{Modules: map[string]Module{}}
	var errs []error
	if err := n.readModules(&s); err != nil {
		errs = append(errs, fmt.Errorf("%w: %w", ErrModule, err))
	}
	path, err := os.ReadFile(n.path("sys/module/firmware_class/parameters/path"))
	s.Path = strings.TrimRight(string(path), "\n\x00")
	errs = append(errs, err)
	s.Held, err = readHold(n.path("run/modprobe.d/00-kmmd.conf"))
	errs = append(errs, err)
	s.Firmware, err = readFiles(n.Firmware)
	return s, errors.Join(append(errs, err)...)
}

func (n Node) path(rest string) string { return filepath.Join("/", n.Root, rest) }

// readModules reads lines such as
//
//	dummy 16384 0 - Live 0x0000000000000000 (OE)
func (n Node) readModules(s *State) error {
	data, err := os.ReadFile(n.path("proc/modules"))
	if err != nil {
		return err
	}
	var errs []error
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		if len(f) < 6 {
			errs = append(errs, fmt.Errorf("/proc/modules: %q", line))
			continue
		}
		if !slices.Contains(n.Names, f[0]) {
			continue
		}
		if f[4] != "Live" {
			errs = append(errs, fmt.Errorf("module %s is %s", f[0], f[4]))
			continue
		}
		m, err := n.readModule(f[0])
		s.Modules[f[0]] = m
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (n Node) readModule(name string) (Module, error) {
	dir := n.path("sys/module/" + name)
	m := Module{Parameters: map[string]string{}}
	note, err := os.ReadFile(filepath.Join(dir, "notes/.note.gnu.build-id"))
	if err != nil {
		return m, err
	}
	if m.BuildID, err = noteBuildID(note); err != nil {
		return m, fmt.Errorf("module %s: %w", name, err)
	}
	entries, err := os.ReadDir(filepath.Join(dir, "parameters"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return m, err
	}
	for _, e := range entries {
		if value, err := os.ReadFile(filepath.Join(dir, "parameters", e.Name())); err == nil { // some can not be read
			m.Parameters[e.Name()] = strings.TrimSuffix(string(value), "\n")
		}
	}
	return m, nil
}

// readHold reads the three lines of each module:
//
//	softdep dummy pre: post:
//	install dummy /bin/false
//	blacklist dummy
func readHold(path string) ([]string, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var held []string
	var lines []string
	for line := range strings.Lines(string(data)) {
		if !strings.HasPrefix(line, "#") {
			lines = append(lines, line)
		}
	}
	for three := range slices.Chunk(lines, 3) {
		f := strings.Fields(three[0])
		if len(f) < 2 || strings.Join(three, "") != fmt.Sprintf("softdep %s pre: post:\ninstall %[1]s /bin/false\nblacklist %[1]s\n", f[1]) {
			return nil, fmt.Errorf("%s: %q", path, three)
		}
		held = append(held, f[1])
	}
	slices.Sort(held)
	return held, nil
}

// readFiles reads all files below a directory, which may be missing. What is no
// plain file has its type for content. Of large ones the content is the digest.
func readFiles(dir string) (map[string]string, error) {
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && path == dir {
			return fs.SkipAll
		}
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if !d.Type().IsRegular() {
			files[name] = d.Type().String()
			return nil
		}
		data, err := os.ReadFile(path)
		files[name] = Content(data)
		return err
	})
	return files, err
}

// maxContent is how much of a file a report shows.
const maxContent = 64

// Content is how a file's bytes stand in a State: as they are if they are few,
// else their digest.
func Content(data []byte) string {
	if len(data) <= maxContent {
		return string(data)
	}
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}
