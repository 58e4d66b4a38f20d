// SPDX-License-Identifier: Apache-2.0

package kerneltest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/kmm-node/kmmd/pkg/kernel"
)

// vermagicRest is what Debian's kernels have after the release (include/linux/vermagic.h).
const vermagicRest = "SMP preempt mod_unload modversions"

// Vermagic returns the version magic that a kernel of that release wants.
func Vermagic(release string) string { return release + " " + vermagicRest + " " }

// Load is as kernel.Host.Load: it reads the module file and goes through the steps of load_module and do_init_module
// (kernel/module/main.c) in their order.
func (k *Kernel) Load(ctx context.Context, r kernel.LoadRequest) error {
	if r.File == nil {
		return refuse("load", r.Name, errNoFile, nil)
	}
	if err := ctx.Err(); err != nil {
		return refuse("load", r.Name, err, nil)
	}
	if strings.ContainsRune(r.Parameters+r.Name, 0) {
		return refuse("load", r.Name, syscall.EINVAL, nil)
	}
	k.record(callOf(r))
	return k.insert(r)
}

// LoadAll is as kernel.Host.LoadAll.
func (k *Kernel) LoadAll(ctx context.Context, requests []kernel.LoadRequest) []kernel.Loaded {
	var done []kernel.Loaded
	if len(requests) < 2 || ctx.Err() != nil {
		return nil
	}
	for _, r := range requests {
		begin := time.Now()
		err := k.Load(ctx, r)
		done = append(done, kernel.Loaded{Err: err, Took: time.Since(begin)})
		if err != nil {
			break
		}
	}
	return done
}

// Unload is as kernel.Host.Unload.
func (k *Kernel) Unload(ctx context.Context, name string, _ time.Duration) error {
	if err := ctx.Err(); err != nil {
		return refuse("unload", name, err, nil)
	}
	k.record("unload " + name)
	return k.remove(name)
}

func callOf(r kernel.LoadRequest) string {
	call := []string{"load", r.Name}
	add := func(on bool, s string) {
		if on {
			call = append(call, s)
		}
	}
	add(r.Parameters != "", r.Parameters)
	add(r.IgnoreVermagic, "ignore-vermagic")
	add(r.IgnoreModversions, "ignore-modversions")
	add(r.Compressed, "compressed")
	return strings.Join(call, " ")
}

// insert does what finit_module does.
func (k *Kernel) insert(r kernel.LoadRequest) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	l := &loading{k: k, r: r}
	err := l.run()
	k.log = append(k.log, l.log...)
	if err != nil {
		return refuse("load", r.Name, err, l.log)
	}
	k.event()
	return nil
}

// remove does what delete_module does, in its order of checks.
func (k *Kernel) remove(name string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	m := k.find(name)
	var errno syscall.Errno
	switch {
	case m == nil:
		errno = syscall.ENOENT
	case len(m.users) > 0:
		errno = syscall.EAGAIN
	case m.State != kernel.StateLive || m.Permanent:
		errno = syscall.EBUSY
	case m.held > 0:
		errno = syscall.EAGAIN
	default:
		k.drop(m)
		k.event()
		return nil
	}
	return refuse("unload", name, errno, nil)
}

// drop takes a module out of the list and out of those it uses.
func (k *Kernel) drop(m *module) {
	k.modules = slices.DeleteFunc(k.modules, func(o *module) bool { return o == m })
	for _, used := range m.uses {
		used.users = slices.DeleteFunc(used.users, func(o *module) bool { return o == m })
	}
}

// loading is one finit_module under way.
type loading struct {
	k    *Kernel
	r    kernel.LoadRequest
	file *moduleFile
	mod  *module
	log  []string
}

func (l *loading) print(format string, args ...any) {
	l.log = append(l.log, fmt.Sprintf(format, args...))
}

// run returns nil, an errno, or ErrTimeout.
func (l *loading) run() error {
	if errno := l.read(); errno != 0 {
		return errno
	}
	l.mod = &module{
		Module: kernel.Module{
			Name: l.file.Name, Size: l.file.size, State: kernel.StateComing, BuildID: l.file.BuildID,
			SrcVersion: l.file.SrcVersion, Version: l.file.Version, Taint: l.taint(),
		},
		exports: l.file.exports,
	}
	if errno := l.checkVermagic(); errno != 0 {
		return errno
	}
	if err := l.checkExists(); err != nil {
		return err
	}
	uses, errno := l.resolve()
	if errno != 0 {
		return errno
	}
	if errno := l.setParameters(); errno != 0 {
		return errno
	}
	if l.k.builtin[l.mod.Name] { // mod_sysfs_init
		l.print("%s: module is already loaded", l.mod.Name)
		return syscall.EINVAL
	}
	if err := l.init(); err != nil {
		return err
	}
	l.mod.State = kernel.StateLive
	l.add(uses)
	return nil
}

// add puts the module in the list and among the users of its dependencies.
func (l *loading) add(uses []*module) {
	l.mod.uses = uses
	for _, u := range uses {
		u.users = slices.Insert(u.users, 0, l.mod)
	}
	l.k.modules = slices.Insert(l.k.modules, 0, l.mod)
}

// checkVermagic compares as same_magic does: with CRCs in the file, and no order to ignore them, the release does not count.
// A file without version magic counts as forced. A missing blank at the end is forgiven, other than by the real one.
func (l *loading) checkVermagic() syscall.Errno {
	if l.forced() {
		return 0
	}
	release, rest, _ := strings.Cut(l.file.Vermagic, " ")
	if l.file.crcs && !l.r.IgnoreModversions {
		release = l.k.release
	}
	if release != l.k.release || strings.TrimSpace(rest) != vermagicRest {
		l.print("%s: version magic '%s' should be '%s'", l.mod.Name, l.file.Vermagic, Vermagic(l.k.release))
		return syscall.ENOEXEC
	}
	return 0
}

// forced tells whether the version magic does not count (try_to_force_load).
func (l *loading) forced() bool { return l.r.IgnoreVermagic || l.file.Vermagic == "" }

func (l *loading) taint() string {
	taint := ""
	if l.file.License != "" && !strings.Contains(l.file.License, "GPL") {
		taint += "P"
	}
	if l.forced() || l.r.IgnoreModversions {
		taint += "F"
	}
	if !l.file.InTree {
		taint += "OE" // ours carry no signature
	}
	return taint
}

// checkExists is add_unformed_module: it looks at names only, and waits while another one is in its init function.
func (l *loading) checkExists() error {
	old := l.k.find(l.mod.Name)
	switch {
	case old == nil:
		return nil
	case old.State == kernel.StateComing:
		return l.timeout()
	case old.State == kernel.StateLive:
		return syscall.EEXIST
	}
	return syscall.EBUSY
}

func (l *loading) timeout() error {
	timeout := l.r.Timeout
	if timeout <= 0 {
		timeout = kernel.DefaultTimeout
	}
	return fmt.Errorf("%w within %s: module is %q", kernel.ErrTimeout, timeout, kernel.StateComing)
}

// resolve finds the modules whose symbols this one uses: those it imports from and those depends= names.
func (l *loading) resolve() ([]*module, syscall.Errno) {
	var uses []*module
	var missing []string
	use := func(m *module) {
		if !slices.Contains(uses, m) {
			uses = append(uses, m)
		}
	}
	for _, s := range l.file.imports {
		if m := l.k.exporter(s); m != nil {
			use(m)
		} else if !l.k.exports(s) {
			missing = append(missing, s)
		}
	}
	for _, d := range l.file.Depends {
		if m := l.k.find(d); m != nil && m.State == kernel.StateLive {
			use(m)
		} else if !l.k.builtin[d] && len(missing) == 0 {
			missing = l.blame(d)
		}
	}
	for _, s := range missing {
		l.print("%s: Unknown symbol %s (err -2)", l.mod.Name, s)
	}
	if len(missing) > 0 {
		return nil, syscall.ENOENT
	}
	return uses, 0
}

// blame returns the symbols that a dependency which is not loaded would have had: the imports no module exports, or an
// invented one if the file names none.
func (l *loading) blame(dependency string) []string {
	var missing []string
	for _, s := range l.file.imports {
		if l.k.exporter(s) == nil && !l.k.symbols[s] {
			missing = append(missing, s)
		}
	}
	if missing == nil {
		missing = []string{dependency + "_symbol"}
	}
	return missing
}

// exporter returns the live module that exports a symbol.
func (k *Kernel) exporter(symbol string) *module {
	for _, m := range k.modules {
		if m.State == kernel.StateLive && slices.Contains(m.exports, symbol) {
			return m
		}
	}
	return nil
}

// exports tells whether the kernel image exports a symbol, see AddSymbols.
func (k *Kernel) exports(symbol string) bool {
	if k.symbols == nil {
		return !strings.Contains(symbol, "no_such")
	}
	return k.symbols[symbol]
}

// init is the module's init function: what FailInit and HangInit say, then a request for each of its firmware files.
func (l *loading) init() error {
	name := l.mod.Name
	if f, ok := l.k.failures[name]; ok {
		l.log = append(l.log, f.log...)
		if !f.hang {
			return f.errno
		}
		l.mod.held = 1
		l.add(nil)
		return l.timeout()
	}
	for _, fw := range l.file.Firmware {
		if !l.k.hasFirmware(fw) {
			l.print("%s %s: Direct firmware load for %s failed with error -2", name, name, fw)
			return syscall.ENOENT
		}
	}
	return nil
}
