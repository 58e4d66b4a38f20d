// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// The ways to get a scenario loaded.
const (
	wayRaw      = "raw"      // this program calls finit_module(2)
	wayModprobe = "modprobe" // fork, exec, and the same tree; rmmod and insmod for a swap
	wayFirst    = "first"    // a document for a kmmd that has just come to rest after its start
	wayAgain    = "again"    // the same one once more, after it was taken away
)

// loads are the milliseconds of each round, by scenario and way.
type loads map[string]map[string][]float64

func (l loads) add(scenario, way string, took time.Duration) {
	if l[scenario] == nil {
		l[scenario] = map[string][]float64{}
	}
	l[scenario][way] = append(l[scenario][way], float64(took.Microseconds())/1000)
}

// rounds measures all ways in turns.
func (g *guest) rounds(o options) (loads, error) {
	l := loads{}
	for round := range o.rounds {
		for _, s := range scenarios() {
			turns := []func(scenario, loads) error{g.raw, g.modprobe, g.kmmd}
			for i := range turns {
				if err := turns[(i+round)%len(turns)](s, l); err != nil {
					return nil, fmt.Errorf("%s: %w", s.title, err)
				}
			}
			say("round %d: %s: %v", round+1, s.title, l.last(s.name))
		}
	}
	return l, nil
}

func (l loads) last(scenario string) map[string]float64 {
	out := map[string]float64{}
	for way, values := range l[scenario] {
		out[way] = values[len(values)-1]
	}
	return out
}

// raw loads by system calls of this program.
func (g *guest) raw(s scenario, l loads) error {
	if err := g.before(s); err != nil {
		return err
	}
	begin := time.Now()
	if s.swap != "" {
		if err := unix.DeleteModule(s.swap, unix.O_NONBLOCK); err != nil {
			return err
		}
	}
	for _, path := range s.paths(files) {
		if err := finit(path); err != nil {
			return err
		}
	}
	return g.took(s, l, wayRaw, begin)
}

func finit(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return os.NewSyscallError("finit_module "+path, unix.FinitModule(int(f.Fd()), "", 0))
}

// modprobe loads as a script does.
func (g *guest) modprobe(s scenario, l loads) error {
	if err := g.before(s); err != nil {
		return err
	}
	begin := time.Now()
	if s.swap != "" {
		if err := command("rmmod", s.swap); err != nil {
			return err
		}
		if err := command("insmod", s.paths(files)[0]); err != nil {
			return err
		}
	} else if err := command("modprobe", s.module()); err != nil {
		return err
	}
	return g.took(s, l, wayModprobe, begin)
}

func command(name string, args ...string) error {
	if out, err := exec.Command("/usr/sbin/"+name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %v: %w: %s", name, args, err, out)
	}
	return nil
}

// before brings the kernel to where a way begins.
func (g *guest) before(s scenario) error {
	if s.swap != "" {
		if err := command("modprobe", s.swap); err != nil {
			text, _ := os.ReadFile(logFile)
			return fmt.Errorf("%w\n%s", err, text)
		}
	}
	time.Sleep(100 * time.Millisecond)
	g.events.forget()
	return nil
}

// took notes how long it took until the kernel said that the module is live, and
// unloads.
func (g *guest) took(s scenario, l loads, way string, begin time.Time) error {
	at, err := g.events.wait("add", s.module())
	if err != nil {
		return err
	}
	l.add(s.name, way, at.Sub(begin))
	for _, name := range slices.Backward(s.files) {
		if err := unix.DeleteModule(name, unix.O_NONBLOCK); err != nil {
			return fmt.Errorf("unload %s: %w", name, err)
		}
	}
	return nil
}

// kmmd loads by a document: with a daemon that knows nothing of it yet, and once
// more.
func (g *guest) kmmd(s scenario, l loads) (err error) {
	d, err := startIdle()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.stop()) }()
	for _, way := range []string{wayFirst, wayAgain} {
		if err := g.before(s); err != nil {
			return err
		}
		if err := d.rest(300 * time.Millisecond); err != nil {
			return err
		}
		begin := time.Now()
		if err := g.write(s); err != nil {
			return err
		}
		at, err := g.events.wait("add", s.module())
		if err != nil {
			text, _ := os.ReadFile(logFile)
			return fmt.Errorf("%w\n%s", err, text)
		}
		l.add(s.name, way, at.Sub(begin))
		if err := d.rest(300 * time.Millisecond); err != nil {
			return err
		}
		// Autoload is let go of after the module has gone.
		if err := errors.Join(g.remove(s), d.rest(300*time.Millisecond)); err != nil {
			return err
		}
	}
	return nil
}

// write puts the document into the directory, as cp does: made, written, closed.
func (g *guest) write(s scenario) error {
	return os.WriteFile(filepath.Join(documents, s.name+".yaml"), []byte(s.document(g.registry)), 0o644)
}

// remove takes the document away and waits until the modules are gone.
func (g *guest) remove(s scenario) error {
	if err := os.Remove(filepath.Join(documents, s.name+".yaml")); err != nil {
		return err
	}
	_, err := g.events.wait("remove", s.files[0])
	return err
}
