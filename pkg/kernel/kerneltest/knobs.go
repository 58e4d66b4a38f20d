// SPDX-License-Identifier: Apache-2.0

package kerneltest

import (
	"fmt"
	"os"
	"slices"
	"syscall"

	"github.com/kmm-node/kmmd/pkg/kernel"
)

// SetCmdline sets what Cmdline returns.
func (k *Kernel) SetCmdline(s string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.cmdline = s
}

// SetCompression makes the kernel undo one compression itself: "xz", "gzip", "zstd", or "" for none.
func (k *Kernel) SetCompression(s string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.compression = s
}

// AddBuiltin names modules that are part of the kernel image: they can be neither loaded nor removed.
func (k *Kernel) AddBuiltin(names ...string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, n := range names {
		k.builtin[n] = true
	}
}

// AddSymbols names symbols which the kernel image exports. Before the first call every symbol a module imports is
// there, but for those of a dependency that is not loaded and for names with "no_such" in them.
func (k *Kernel) AddSymbols(names ...string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.symbols == nil {
		k.symbols = map[string]bool{}
	}
	for _, n := range names {
		k.symbols[n] = true
	}
}

// FailInit makes the init function of a module print the lines and return the errno; 0 heals it.
func (k *Kernel) FailInit(name string, errno syscall.Errno, logLines ...string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if errno == 0 {
		delete(k.failures, name)
		return
	}
	k.failures[name] = failure{errno: errno, log: logLines}
}

// HangInit makes the init function of a module print the lines and never return: Load gives ErrTimeout, without
// waiting, and the module stays "coming" until Reboot or Rmmod.
func (k *Kernel) HangInit(name string, logLines ...string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.failures[name] = failure{hang: true, log: logLines}
}

// HangDevice makes the driver of a device not come back from what is written: Write gives ErrTimeout, without waiting. When it
// does not hang any more, all has come back.
func (k *Kernel) HangDevice(device string, hangs bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.hangs, device)
	if hangs {
		k.hangs[device] = false
	}
}

// Hold sets the number of references a loaded module has besides those of other modules, as of open files.
func (k *Kernel) Hold(name string, n int) {
	k.must(name, func(m *module) { m.held = n })
}

// SetState puts a loaded module into kernel.StateComing, StateGoing or StateLive.
func (k *Kernel) SetState(name, state string) {
	k.must(name, func(m *module) { m.State = state })
}

// SetPermanent makes a loaded module one without an exit function.
func (k *Kernel) SetPermanent(name string) {
	k.must(name, func(m *module) { m.Permanent = true })
}

// must changes a loaded module; that it is loaded is up to the test.
func (k *Kernel) must(name string, change func(*module)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	m := k.find(name)
	if m == nil {
		panic("kerneltest: module " + name + " is not loaded")
	}
	change(m)
}

// SetFirmware sets which firmware files the kernel finds. Without, it looks below the firmware path, and there only.
func (k *Kernel) SetFirmware(has func(name string) bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.firmware = has
}

// Preload loads a module file as modprobe did before the test began: it is no call. It panics when that fails.
func (k *Kernel) Preload(path, params string) {
	if err := k.loadPath(path, params); err != nil {
		panic(fmt.Sprintf("kerneltest: preload %s: %v", path, err))
	}
}

// Autoload loads a module file as udev or the kernel's own request would, unless HoldAutoload names it; it is no call,
// and its failure is silent. It tells whether the module was loaded by it.
func (k *Kernel) Autoload(name, path string) bool {
	k.mu.Lock()
	held := slices.Contains(k.held, name)
	k.mu.Unlock()
	return !held && k.loadPath(path, "") == nil
}

// Rmmod removes a module as somebody at the node would; it is no call.
func (k *Kernel) Rmmod(name string) error {
	return k.remove(name)
}

// Reboot starts this or another release with nothing but the knobs left: no modules, nothing held, no firmware path.
func (k *Kernel) Reboot(release string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.release = release
	k.boot++
	k.modules, k.held, k.fwPath, k.log = nil, nil, "", nil
}

// Calls returns what was asked of the kernel that could change it, the refused calls too, oldest first: "load dummy
// level=1", "unload dummy", "hold dummy", "firmware-path /var/lib/firmware". The flags of a load follow its parameters:
// "load dummy level=1 ignore-vermagic ignore-modversions compressed".
func (k *Kernel) Calls() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.calls)
}

// ResetCalls forgets the calls so far.
func (k *Kernel) ResetCalls() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.calls = nil
}

// OnCall sets a hook that runs before each call is carried out, with what Calls will say of it. It may use the kernel:
// so a test puts somebody else's action between two of the caller's.
func (k *Kernel) OnCall(hook func(call string)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.onCall = hook
}

// Log returns everything the kernel printed since it was booted.
func (k *Kernel) Log() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.log)
}

func (k *Kernel) loadPath(path, params string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return k.insert(kernel.LoadRequest{Name: path, File: f, Parameters: params})
}
