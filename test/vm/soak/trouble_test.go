// SPDX-License-Identifier: Apache-2.0

package soak

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"

	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/test/vm/guest"
)

// Steps behind kmmd's back.

// removable are the good documents whose module nothing uses.
func (s *soak) removable() []string {
	runs := s.host.modules(s)
	return s.world.names(func(d *document) bool {
		m, ok := runs[d.what.module]
		return d.good() && ok && m.refs == 0
	})
}

func (s *soak) rmmodWanted() string {
	name := s.pick(s.removable())
	if name != "" {
		guest.Unload(s, s.world.docs[name].what.module)
	}
	return name
}

// modprobe loads a module of the kernel's own, or fails where that is held off.
func (s *soak) modprobe() string {
	name := s.pick(inTreeModules())
	parameter := map[string]string{"null_blk": "nr_devices=1"}[name] // dummy shows none
	if _, already := s.world.foreign[name]; already {
		return ""
	}
	if slices.Contains(s.world.held(), name) {
		if _, runs := s.host.modules(s)[name]; runs { // ours does; modprobe says yes to what is there
			require.NoError(s, s.host.modprobe(name))
			return name + " is there"
		}
		require.Error(s, s.host.modprobe(append([]string{name}, strings.Fields(parameter)...)...), "it is held off")
		return name + " is held off"
	}
	require.NoError(s, s.host.modprobe(append([]string{name}, strings.Fields(parameter)...)...))
	s.world.foreign[name] = parameter
	return name
}

func (s *soak) rmmodForeign() string {
	name := s.pick(slices.Sorted(maps.Keys(s.world.foreign)))
	if name != "" {
		guest.Unload(s, name)
		delete(s.world.foreign, name)
	}
	return name
}

// insist loads a module of the kernel's own that is held off. Whether it comes at
// all depends on who is faster; it does not stay.
func (s *soak) insist() string {
	d := s.world.docs["dummy"]
	if d == nil || !d.good() {
		return ""
	}
	name := s.pick(d.runs.remove)
	if name == "dummy" {
		guest.Unload(s, "dummy")
	}
	_ = s.host.modprobe("-i", name)
	return name
}

// usurp has another build of a module run. No document allows to remove that: it
// is told, and stays until somebody removes it.
func (s *soak) usurp() string {
	name := s.pick(slices.DeleteFunc(s.removable(), func(name string) bool { return name == "dummy" || name == "base" }))
	if name == "" {
		return ""
	}
	d := s.world.docs[name]
	good := d.runs
	other := *good
	other.image.build = -1
	s.daemon.signal(syscall.SIGSTOP)
	guest.Unload(s, d.what.module)
	image := withBuildID(s, d.what.module+".ko", id(d.what.module, -1))
	require.NoError(s, s.host.insmod(s, image, strings.Join(good.parameters, " ")))
	s.daemon.signal(syscall.SIGCONT)
	d.runs, d.reason = &other, "WrongBuild"
	s.settle()
	guest.Unload(s, d.what.module)
	d.runs, d.reason = good, ""
	return name
}

// busy has a module in use that is to be replaced.
func (s *soak) busy() string {
	d := s.world.docs["base"]
	if d == nil || !d.good() || len(s.world.sharers("base")) > 0 {
		return ""
	}
	f, err := os.Open("/dev/kmm_base")
	require.NoError(s, err)
	defer f.Close()
	old := d.runs
	s.world.family++
	s.store.count++
	set := setup{tag: s.store.fresh(d.what), image: image{build: s.world.family, base: s.world.family}, parameters: old.parameters, version: s.store.count}
	s.store.push(s, d.what, set)
	s.write(d.what, d.file, set)
	s.world.set(d.what, d.file, set)
	d.runs, d.reason = old, "InUse"
	s.settle()
	require.NoError(s, f.Close())
	d.runs, d.reason = &set, ""
	return fmt.Sprintf("base: %+v", set)
}

// loseFirmware removes a firmware file of a good document.
func (s *soak) loseFirmware() string {
	name := s.pick(s.world.names(func(d *document) bool { return d.good() && d.runs.firmware }))
	if name == "" {
		return ""
	}
	file := s.pick(s.world.docs[name].runs.image.firmware)
	require.NoError(s, os.Remove(s.host.path("firmware", file)))
	return file
}

// otherPath is what somebody sets firmware_class.path to.
const otherPath = "/tmp"

func (s *soak) otherFirmwarePath() string {
	if len(s.world.names(func(d *document) bool { return d.good() && d.runs.firmware })) == 0 {
		return ""
	}
	require.NoError(s, os.WriteFile("/sys/module/firmware_class/parameters/path", []byte(otherPath), 0o200))
	return otherPath
}

// loseHold takes away what holds off automatic loading, or empties it.
func (s *soak) loseHold() string {
	d := s.world.docs["dummy"]
	if d == nil || !d.good() {
		return ""
	}
	const file = "/run/modprobe.d/00-kmmd.conf"
	if s.chance(50) {
		require.NoError(s, os.Truncate(file, 0))
		return "emptied"
	}
	require.NoError(s, os.Remove(file))
	return "removed"
}

// noise are lines in the kernel's log that look like bad news of modules. User
// space wrote them, so nobody is to believe them.
func (s *soak) noise() string {
	f, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0)
	require.NoError(s, err)
	defer f.Close()
	lines := 50 + s.rng.IntN(200)
	for i := range lines {
		// The kernel may take only so many at a time.
		_, _ = fmt.Fprintf(f, "<7>%s: Unknown symbol noise%d (err -2)\n", tracked()[i%len(tracked())], i)
	}
	return fmt.Sprint(lines)
}

// storm are many events of modules.
func (s *soak) storm() string {
	events := 20 + s.rng.IntN(200)
	for range events {
		s.host.event(s)
	}
	return fmt.Sprint(events)
}

// noRegistry has a document change while the registry can not be reached.
func (s *soak) noRegistry() string {
	name := s.pick(s.world.names(func(d *document) bool { return d.good() && !d.what.family() }))
	if name == "" {
		return ""
	}
	d := s.world.docs[name]
	set, _ := s.setup(d.what)
	set.flaw, set.parameters = flaw{}, s.parameters(d.what)
	s.store.push(s, d.what, set)
	host, _, _ := strings.Cut(set.tag, ":")
	s.ip("route", "add", "unreachable", host+"/32")
	s.world.away = true
	old, foreign := d.runs, maps.Clone(s.world.foreign)
	s.write(d.what, d.file, set)
	s.world.set(d.what, d.file, set)
	d.runs, d.reason = old, "ImageUnreachable"
	s.world.foreign, foreign = foreign, s.world.foreign // nothing is removed yet
	if !s.calm && s.chance(50) {
		s.daemon.kill()
		s.daemon.start()
	}
	s.settle()
	s.ip("route", "del", "unreachable", host+"/32")
	s.world.away, s.world.foreign = false, foreign
	d.runs, d.reason = &set, ""
	return fmt.Sprintf("%s: %+v", name, set)
}

func (s *soak) ip(args ...string) {
	s.Helper()
	out, err := exec.Command("ip", args...).CombinedOutput()
	require.NoError(s, err, "ip %v: %s", args, out)
}
