// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kmm-node/kmmd/pkg/kmod"
)

// resultMark begins the line that the host looks for.
const resultMark = "bench-node-result: "

// guest is this program inside the VM.
type guest struct {
	events   events
	registry string
	release  string
}

// result is what one kernel gives.
type result struct {
	Release string     `json:"release"`
	Speed   speed      `json:"speed"`
	Loads   loads      `json:"loads,omitempty"`
	Starts  loads      `json:"starts,omitempty"`
	Rest    *rest      `json:"rest,omitempty"`
	Idle    []idleness `json:"idle,omitempty"`
}

func say(format string, args ...any) { fmt.Fprintf(os.Stderr, "bench-node: "+format+"\n", args...) }

// measure does everything that has to be done in the VM and prints the result.
func measure(ctx context.Context, o options) error {
	g := &guest{registry: os.Getenv("KMMD_VM_REGISTRY")}
	if err := g.prepare(); err != nil {
		return err
	}
	r := result{Release: g.release, Speed: measureSpeed()}
	var err error
	for _, part := range []struct {
		name string
		do   func() error
	}{
		{"load", func() error { r.Loads, err = g.rounds(o); return err }},
		{"start", func() error { r.Starts, err = g.starts(o); return err }},
		{"rest", func() error { r.Rest, err = g.atRest(o); return err }},
		{"idle", func() error { r.Idle, err = g.idle(ctx, o); return err }},
	} {
		if !o.part(part.name) {
			continue
		}
		say("%s: %s", g.release, part.name)
		if err := part.do(); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
	}
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	fmt.Println(resultMark + string(text))
	return nil
}

// prepare mounts the disk, gives the guest the whole tree of its kernel, and has
// every image in the store.
func (g *guest) prepare() error {
	if err := os.MkdirAll(disk, 0o755); err != nil {
		return err
	}
	if err := command("modprobe", "virtio_blk"); err != nil {
		return err
	}
	if err := unix.Mount("/dev/vda", disk, "ext4", 0, ""); err != nil {
		return fmt.Errorf("mount the disk: %w", err)
	}
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return err
	}
	g.release = strings.TrimSpace(string(release))
	tree := filepath.Join("lib/modules", g.release)
	if err := unix.Mount(filepath.Join(disk, tree), filepath.Join("/", tree), "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount the kernel's tree: %w", err)
	}
	for _, dir := range []string{documents, "/var/lib/firmware"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := os.WriteFile("/etc/kmmd/kmmd.toml", []byte("state_dir = \""+disk+"/state\"\n"), 0o644); err != nil {
		return err
	}
	if g.events, err = listen(); err != nil {
		return err
	}
	return g.fill()
}

// fill loads each scenario once, out of the registry, and looks whether it is the
// right one that runs.
func (g *guest) fill() error {
	d, err := startIdle()
	if err != nil {
		return err
	}
	for _, s := range scenarios() {
		if err := g.before(s); err != nil {
			return err
		}
		if err := g.write(s); err != nil {
			return err
		}
		if _, err := g.events.wait("add", s.module()); err != nil {
			text, _ := os.ReadFile(logFile)
			return fmt.Errorf("%s: %w\n%s", s.title, err, text)
		}
		if err := d.rest(300 * time.Millisecond); err != nil {
			return err
		}
		if err := runs(s); err != nil {
			return err
		}
		if err := g.remove(s); err != nil {
			return err
		}
	}
	return d.stop()
}

// runs compares what the kernel runs with the files.
func runs(s scenario) error {
	for i, path := range s.paths(files) {
		info, err := kmod.ReadInfo(path)
		if err != nil {
			return err
		}
		note, err := os.ReadFile("/sys/module/" + s.files[i] + "/notes/.note.gnu.build-id")
		if err != nil {
			return err
		}
		if !strings.HasSuffix(fmt.Sprintf("%x", note), info.BuildID) {
			return fmt.Errorf("%s: another build runs", s.files[i])
		}
	}
	return nil
}
