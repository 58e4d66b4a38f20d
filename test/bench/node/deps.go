// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// deps compares `kmmd deps` with `modprobe --show-depends`, here and not in the VM:
// both only read files. Milliseconds of each round.
type deps struct {
	release string
	modules int
	kmmd    []float64 // one process, all modules
	many    []float64 // modprobe, a process for each module
	one     []float64 // modprobe -a, one process
}

func measureDeps(ctx context.Context, o options, release string) (d deps, err error) {
	root := filepath.Join(o.lab, release)
	names, err := moduleNames(filepath.Join(root, "lib/modules", release, "modules.dep"))
	if err != nil {
		return d, err
	}
	d = deps{release: release, modules: len(names)}
	modprobe := []string{"/usr/sbin/modprobe", "-d", root, "-S", release, "-C", "/dev/null", "--show-depends"}
	ours := append([]string{filepath.Join(o.bench, "bin/kmmd"), "deps", "--root", root, "--kernel", release}, names...)
	for round := range o.rounds {
		var want, got, same []byte
		turns := []func() error{
			func() error { return timed(&d.kmmd, func() (err error) { got, err = output(ctx, ours); return err }) },
			func() error {
				return timed(&d.one, func() (err error) {
					same, err = output(ctx, append(append(slices.Clone(modprobe), "-a"), names...))
					return err
				})
			},
			func() error {
				return timed(&d.many, func() error {
					for _, name := range names {
						out, err := output(ctx, append(slices.Clone(modprobe), name))
						if err != nil {
							return err
						}
						want = append(want, out...)
					}
					return nil
				})
			},
		}
		for i := range turns {
			if err := turns[(i+round)%len(turns)](); err != nil {
				return d, err
			}
		}
		if !bytes.Equal(want, got) || !bytes.Equal(want, same) {
			return d, errors.New("kmmd deps does not say what modprobe says")
		}
	}
	return d, nil
}

func timed(into *[]float64, f func() error) error {
	begin := time.Now()
	err := f()
	*into = append(*into, float64(time.Since(begin).Microseconds())/1000)
	return err
}

func output(ctx context.Context, args []string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s", args[0], err, said.String())
	}
	return out, nil
}

// moduleNames are all that modules.dep names.
func moduleNames(path string) ([]string, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var out []string
	for line := range strings.Lines(string(b)) {
		file, _, _ := strings.Cut(line, ":")
		name, _, _ := strings.Cut(filepath.Base(file), ".")
		out = append(out, name)
	}
	return out, nil
}
