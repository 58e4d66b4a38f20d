// SPDX-License-Identifier: Apache-2.0

// Package kerneltest has a kernel in memory with the methods of *kernel.Host and the real kernel's rules about
// modules, and the contract test that both pass.
package kerneltest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/kmm-node/kmmd/pkg/kernel"
)

// Loader is the method set of *kernel.Host, which Kernel has too.
type Loader interface {
	Release() string
	BootID() string
	Cmdline() string
	Compression() string
	Modules(closer ...string) ([]kernel.Module, error)
	Module(name string) (kernel.Module, error)
	Running(name string) (state, buildID string, err error)
	Load(ctx context.Context, r kernel.LoadRequest) error
	LoadAll(ctx context.Context, requests []kernel.LoadRequest) []kernel.Loaded
	Unload(ctx context.Context, name string, timeout time.Duration) error
	Write(ctx context.Context, r kernel.WriteRequest) error
	Hanging(device string) error
	FirmwarePath() (string, error)
	SetFirmwarePath(path string) error
	HoldAutoload(names []string) error
	Held() ([]string, error)
	WatchModules(ctx context.Context, ready, changed func()) error
}

// Kernel is a kernel in memory. It behaves as Debian's do: modversions and forced loading are on. Its methods may be
// called by several goroutines, also by the hook of OnCall.
type Kernel struct {
	mu          sync.Mutex // guards everything below
	release     string
	boot        int
	cmdline     string
	compression string
	modules     []*module // newest first
	builtin     map[string]bool
	symbols     map[string]bool // exported by the kernel image; nil: any that no module file is known to export
	failures    map[string]failure
	firmware    func(name string) bool
	fwPath      string
	held        []string
	hangs       map[string]bool // devices whose drivers do not come back: true once one was called
	calls       []string
	log         []string
	onCall      func(call string)
	watchers    map[chan struct{}]bool
}

// module is one module of the kernel's list.
type module struct {
	kernel.Module
	exports []string
	users   []*module // newest first
	uses    []*module
	held    int // references besides the users'
}

// failure is how the init function of a module ends.
type failure struct {
	errno syscall.Errno
	log   []string
	hang  bool
}

// New returns a kernel of that release ("6.1.0-56-cloud-amd64") with no modules.
func New(release string) *Kernel {
	return &Kernel{
		release:  release,
		boot:     1,
		builtin:  map[string]bool{},
		failures: map[string]failure{},
		hangs:    map[string]bool{},
		watchers: map[chan struct{}]bool{},
	}
}

// Release is as kernel.Host.Release.
func (k *Kernel) Release() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.release
}

// BootID is as kernel.Host.BootID; Reboot changes it.
func (k *Kernel) BootID() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return fmt.Sprintf("00000000-0000-4000-8000-%012d", k.boot)
}

// Cmdline is as kernel.Host.Cmdline; SetCmdline changes it.
func (k *Kernel) Cmdline() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.cmdline
}

// Compression is as kernel.Host.Compression; SetCompression changes it.
func (k *Kernel) Compression() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.compression
}

// Modules is as kernel.Host.Modules.
func (k *Kernel) Modules(closer ...string) ([]kernel.Module, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	list := make([]kernel.Module, 0, len(k.modules))
	for _, m := range k.modules {
		s := m.snapshot()
		if !slices.Contains(closer, s.Name) {
			s.BuildID, s.SrcVersion, s.Version, s.Parameters = "", "", "", nil
		}
		list = append(list, s)
	}
	return list, nil
}

// Module is as kernel.Host.Module.
func (k *Kernel) Module(name string) (kernel.Module, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	m := k.find(name)
	if m == nil {
		return kernel.Module{}, fmt.Errorf("module %s: %w", name, kernel.ErrNotLoaded)
	}
	return m.snapshot(), nil
}

// Running is as kernel.Host.Running.
func (k *Kernel) Running(name string) (state, buildID string, err error) {
	m, err := k.Module(name)
	return m.State, m.BuildID, err
}

// snapshot returns what the kernel shows of the module now.
func (m *module) snapshot() kernel.Module {
	s := m.Module
	s.Parameters = maps.Clone(m.Parameters)
	s.UsedBy = nil
	for _, u := range m.users {
		s.UsedBy = append(s.UsedBy, u.Name)
	}
	s.Refs = len(m.users) + m.held
	if s.State == kernel.StateGoing {
		s.Refs = -1
	}
	return s
}

// find returns the module of that name or nil. Names are compared as they are.
func (k *Kernel) find(name string) *module {
	for _, m := range k.modules {
		if m.Name == name {
			return m
		}
	}
	return nil
}

// Write is as kernel.Host.Write; the call is "write unbind 0000:00:02.0", with the name of the file. It writes into the file:
// what a device does is up to the test.
func (k *Kernel) Write(ctx context.Context, r kernel.WriteRequest) error {
	if err := errors.Join(ctx.Err(), k.Hanging(r.Device)); err != nil {
		return refuse("write", r.File.Name(), err, nil)
	}
	k.record("write " + filepath.Base(r.File.Name()) + " " + r.Text)
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, hangs := k.hangs[r.Device]; hangs {
		k.hangs[r.Device] = true
		return refuse("write", r.File.Name(), fmt.Errorf("%w within %s", kernel.ErrTimeout, r.Timeout), nil)
	}
	_, err := r.File.WriteString(r.Text)
	return err
}

// Hanging is as kernel.Host.Hanging.
func (k *Kernel) Hanging(device string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.hangs[device] {
		return fmt.Errorf("%w an earlier call", kernel.ErrTimeout)
	}
	return nil
}

// FirmwarePath is as kernel.Host.FirmwarePath.
func (k *Kernel) FirmwarePath() (string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.fwPath, nil
}

// SetFirmwarePath is as kernel.Host.SetFirmwarePath; the call is "firmware-path /some/dir".
func (k *Kernel) SetFirmwarePath(path string) error {
	k.record(strings.TrimSpace("firmware-path " + path))
	if len(path) > 255 || strings.ContainsAny(path, "\n\x00") {
		return fmt.Errorf("set firmware path: %w", syscall.ENOSPC)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.fwPath = path
	return nil
}

// hasFirmware asks the function of SetFirmware, or looks below the firmware path.
func (k *Kernel) hasFirmware(name string) bool {
	if k.firmware != nil {
		return k.firmware(name)
	}
	if k.fwPath == "" {
		return false
	}
	_, err := os.Stat(filepath.Join(k.fwPath, name))
	return err == nil
}

// HoldAutoload is as kernel.Host.HoldAutoload; the call is "hold a b", and "hold" when nothing is held any more. One
// that changes nothing is no call.
func (k *Kernel) HoldAutoload(names []string) error {
	names = slices.Compact(slices.Sorted(slices.Values(names)))
	for _, n := range names {
		if n == "" || strings.ContainsAny(n, " \t\n*?[]") {
			return fmt.Errorf("hold autoload: %q is no module name", n)
		}
	}
	held, err := k.Held()
	if err != nil || slices.Equal(held, names) {
		return err
	}
	k.record(strings.TrimSpace("hold " + strings.Join(names, " ")))
	k.mu.Lock()
	defer k.mu.Unlock()
	k.held = names
	return nil
}

// Held is as kernel.Host.Held.
func (k *Kernel) Held() ([]string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.held), nil
}

// WatchModules is as kernel.Host.WatchModules.
func (k *Kernel) WatchModules(ctx context.Context, ready, changed func()) error {
	events := make(chan struct{}, 1)
	k.mu.Lock()
	k.watchers[events] = true
	k.mu.Unlock()
	defer func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		delete(k.watchers, events)
	}()
	ready()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-events:
			changed()
		}
	}
}

// event tells the watchers. The caller has the lock.
func (k *Kernel) event() {
	for c := range k.watchers {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

// record notes a call that may change something, then runs the hook without the lock.
func (k *Kernel) record(call string) {
	k.mu.Lock()
	k.calls = append(k.calls, call)
	hook := k.onCall
	k.mu.Unlock()
	if hook != nil {
		hook(call)
	}
}

// refuse makes the error that the real kernel's answer would become.
func refuse(op, name string, err error, log []string) error {
	return &kernel.Error{Op: op, Module: name, Err: err, Log: log}
}

// errNoFile is what kernel.Host says too.
var errNoFile = errors.New("no file given")
