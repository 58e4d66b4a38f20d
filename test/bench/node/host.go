// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// onHost has each kernel's VM measure, measures here what needs no VM, and prints
// it all.
func onHost(ctx context.Context, o options) error {
	rep := report{o: o, host: measureSpeed(), load: loadAverage()}
	for _, series := range o.kernels {
		release, err := labRelease(o.lab, series)
		if err != nil {
			return err
		}
		var r result
		if o.only != "deps" {
			if r, err = inVM(ctx, o, series, release); err != nil {
				return fmt.Errorf("kernel %s: %w", series, err)
			}
		}
		r.Release = release
		if o.part("deps") {
			d, err := measureDeps(ctx, o, release)
			if err != nil {
				return err
			}
			rep.deps = append(rep.deps, d)
		}
		rep.kernels = append(rep.kernels, r)
	}
	info, err := os.Stat(filepath.Join(o.bench, "bin/kmmd"))
	if err != nil {
		return err
	}
	rep.binary = info.Size()
	return rep.print(os.Stdout)
}

// inVM boots the kernel with a disk that has its tree, the files and kmmd, and has
// this program measure there.
func inVM(ctx context.Context, o options, series, release string) (r result, err error) {
	image, err := makeDisk(ctx, o, release)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, os.Remove(image)) }()
	script := filepath.Join(filepath.Dir(image), "guest.sh")
	line := fmt.Sprintf("exec /src/%s -guest -rounds %d -looks %d -idle %s -only '%s'\n", guestProgram, o.rounds, o.looks, o.idle, o.only)
	if err := os.WriteFile(script, []byte(line), 0o644); err != nil {
		return r, err
	}
	cmd := exec.CommandContext(ctx, "test/vm/run", "--prepare", pushAll(o, release), script)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	machine, kernel := clock()
	cmd.Env = append(os.Environ(), "KMMD_VM_KERNEL="+series, "KMMD_VM_TIMEOUT=10800", "KMMD_VM_MEMORY=1536",
		"KMMD_VM_FILES="+guestProgram+" "+straceFiles, "KMMD_VM_CPUS=1", "KMMD_VM_APPEND="+kernel,
		"KMMD_VM_QEMU="+machine+" -drive file="+image+",format=raw,if=virtio,cache=unsafe")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return r, err
	}
	if err := cmd.Start(); err != nil {
		return r, err
	}
	found, err := readResult(out, &r)
	if werr := cmd.Wait(); werr != nil || err != nil {
		return r, errors.Join(werr, err)
	}
	if !found {
		return r, errors.New("the VM gave no result")
	}
	return r, nil
}

// clock has the guest's clock go on by a nanosecond with each instruction of an emulated processor, and as ours while that
// has nothing to do. What the emulator takes for an instruction, many times as long where code runs for the first time,
// and what else the machine does meanwhile, is then no part of what is measured. The kernel, which is told what its time
// stamp counter is as it can not be measured, is told that of this one. A real processor has its own clock. The emulated one
// has the wide registers and the checksums that a real one has, though they are slow, but not cmpxchg16b, after which QEMU
// gets the flags wrong. Its timers are as exact as a real one's.
func clock() (machine, kernel string) {
	if accel := os.Getenv("KMMD_VM_ACCEL"); accel != "" && accel != "tcg" {
		return "", ""
	}
	return "-icount shift=0 -cpu max,-erms,-fsrm,-la57,-smap,-smep,-cx16", "tsc_early_khz=1000000 highres=on"
}

// pushAll gives the registry of the VM an image for each scenario.
func pushAll(o options, release string) string {
	var commands []string
	for _, s := range scenarios() {
		words := []string{filepath.Join(o.bench, "bin/push"), s.image(`"$KMMD_VM_REGISTRY_HOST"`)}
		for _, path := range s.paths(filepath.Join(o.bench, "node-"+release)) {
			words = append(words, fmt.Sprintf("opt/lib/modules/%s/%s=%s", release, filepath.Base(path), path))
		}
		commands = append(commands, strings.Join(words, " "))
	}
	return strings.Join(commands, " && ")
}

// What else the guest is given, relative to the root of the repository.
const (
	guestProgram = ".lab/bench/bin/node"
	straceFiles  = ".lab/bench/strace"
)

// readResult passes on what the guest says, and takes the result out.
func readResult(r io.Reader, into *result) (found bool, err error) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		text, ok := strings.CutPrefix(lines.Text(), resultMark)
		if !ok {
			fmt.Fprintln(os.Stderr, lines.Text())
			continue
		}
		if err := json.Unmarshal([]byte(text), into); err != nil {
			return false, err
		}
		found = true
	}
	return found, lines.Err()
}

// makeDisk makes the image of the disk; the caller removes it. Nothing is mounted:
// mke2fs copies a directory into it.
func makeDisk(ctx context.Context, o options, release string) (image string, err error) {
	script := `set -euo pipefail
export PATH=$PATH:/usr/sbin:/sbin
dir=$bench/disk-$release
rm -rf "$dir" "$dir.img"
mkdir -p "$dir/lib/modules" "$dir/modules"
cp -a "$lab/$release/lib/modules/$release" "$dir/lib/modules/"
rm -f "$dir/lib/modules/$release/"{build,source}
mkdir "$dir/lib/modules/$release/updates"
cp "$bench/node-$release"/*.ko "$dir/modules/"
cp "$bench/node-$release"/kbn_*.ko "$dir/lib/modules/$release/updates/"
depmod -b "$dir" "$release"
cp "$bench/bin/kmmd" "$dir/"
truncate -s 1G "$dir.img"
mke2fs -q -t ext4 -E root_owner=0:0 -d "$dir" "$dir.img"
rm -rf "$dir"`
	cmd := exec.CommandContext(ctx, "bash", "-c", script)
	cmd.Env = append(os.Environ(), "bench="+o.bench, "lab="+o.lab, "release="+release)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("make the disk: %w\n%s", err, out)
	}
	return filepath.Join(o.bench, "disk-"+release+".img"), nil
}

// labRelease is the release that stands for a series.
func labRelease(lab, series string) (string, error) {
	b, err := os.ReadFile(filepath.Join(lab, "kernels"))
	if err != nil {
		return "", fmt.Errorf("there is no lab: run make setup-vm: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == series {
			return f[1], nil
		}
	}
	return "", fmt.Errorf("the lab has no kernel %s", series)
}

// loadAverage is that of the last minute.
func loadAverage() float64 {
	b, _ := os.ReadFile("/proc/loadavg")
	word, _, _ := strings.Cut(string(b), " ")
	v, _ := strconv.ParseFloat(word, 64)
	return v
}
