// SPDX-License-Identifier: Apache-2.0

// Package faults breaks things under the kmmd that ships, on a real kernel, in a
// VM of the lab: its process, its disk, its registry, its API server, its files.
// After each case the node is looked at by test/faults/state, and must be as it
// is wanted, or as it was before. docs/reliability.md has the counts.
package faults

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kmm-node/kmmd/test/faults/points"
	"github.com/kmm-node/kmmd/test/faults/relay"
	"github.com/kmm-node/kmmd/test/faults/tally"
)

var (
	// full says whether all cases are played, or a few of each family.
	full = os.Getenv("KMMD_FAULTS") == "full"
	// stride has the full campaign pass over points: of so many one is tried.
	stride = max(1, number(os.Getenv("KMMD_FAULTS_STRIDE")))
	counts tally.Counts
	// registry is the lab's, as documents name it.
	registry *relay.Relay
)

func number(s string) int {
	n, _ := strconv.Atoi(s)
	return n
}

func TestMain(m *testing.M) {
	points.Launch()
	if os.Getenv("KMMD_VM") == "" {
		os.Stdout.WriteString("skip: not in a VM of the lab, run it by -exec test/vm/exec\n")
		os.Exit(0)
	}
	if err := prepare(); err != nil {
		fmt.Println("prepare the node:", err)
		os.Exit(1)
	}
	code := m.Run()
	fmt.Print(counts.String())
	os.Exit(code)
}

// prepare mounts the disk where a node has what outlives a boot.
func prepare() error {
	if out, err := exec.Command("modprobe", "virtio_blk").CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	// What null_blk needs is loaded by the node, and stays.
	if out, err := exec.Command("modprobe", "configfs").CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	var err error
	if registry, err = relay.New("127.0.0.1:5000", "http://"+os.Getenv("KMMD_VM_REGISTRY")); err != nil {
		return err
	}
	// As small as the disk: it is to be filled.
	if err := unix.Mount("", "/run", "", unix.MS_REMOUNT, "size=8m,mode=755"); err != nil {
		return fmt.Errorf("remount /run: %w", err)
	}
	return mountDisk()
}

const disk = "/dev/vda"

func mountDisk() error { return unix.Mount(disk, "/var/lib", "ext4", 0, "") }
