// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// wayBoot is a kmmd that starts on a machine that has just booted: no ledger, no
// status, nothing in the page cache, the document and the image on the disk.
const wayBoot = "boot"

// starts measures from the start of kmmd to the module that runs; the others from
// the start of modprobe, with nothing in the page cache either.
func (g *guest) starts(o options) (loads, error) {
	l := loads{}
	all := scenarios()
	for round := range o.rounds {
		for _, s := range []scenario{all[0], all[1]} {
			turns := []func(scenario, loads) error{g.modprobeCold, g.boot}
			for i := range turns {
				if err := turns[(i+round)%len(turns)](s, l); err != nil {
					return nil, fmt.Errorf("%s: %w", s.title, err)
				}
			}
			say("round %d: start, %s: %v", round+1, s.title, l.last(s.name))
		}
	}
	return l, nil
}

func dropCaches() error {
	unix.Sync()
	return os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0o200)
}

func (g *guest) modprobeCold(s scenario, l loads) error {
	if err := dropCaches(); err != nil {
		return err
	}
	return g.modprobe(s, l)
}

func (g *guest) boot(s scenario, l loads) error {
	if err := g.before(s); err != nil {
		return err
	}
	if err := errors.Join(g.write(s), os.RemoveAll(runDir), dropCaches()); err != nil {
		return err
	}
	begin := time.Now()
	d, err := start()
	if err != nil {
		return err
	}
	at, err := g.events.wait("add", s.module())
	if err != nil {
		return errors.Join(err, d.stop())
	}
	l.add(s.name, wayBoot, at.Sub(begin))
	if err := d.rest(300 * time.Millisecond); err != nil {
		return err
	}
	return errors.Join(g.remove(s), d.rest(300*time.Millisecond), d.stop())
}

// together loads everything but the largest, and returns with a kmmd at rest.
func (g *guest) together(args ...string) (*daemon, error) {
	list := g.restScenarios()
	for _, s := range list {
		if err := errors.Join(g.before(s), g.write(s)); err != nil {
			return nil, err
		}
	}
	d, err := startIdle(args...)
	if err != nil {
		return nil, err
	}
	for _, s := range list {
		if err := runs(s); err != nil {
			return nil, errors.Join(err, d.stop())
		}
	}
	return d, nil
}

func (g *guest) restScenarios() []scenario {
	return slices.DeleteFunc(scenarios(), func(s scenario) bool { return s.name == "50m" })
}

// apart takes all that together has loaded away.
func (g *guest) apart(d *daemon) error {
	for _, s := range g.restScenarios() {
		if err := g.remove(s); err != nil {
			return err
		}
	}
	return errors.Join(d.rest(300*time.Millisecond), d.stop())
}
