// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/kmm-node/kmmd/test/faults/points"
)

// trouble is a disk that fails from a point on, as the kernel itself makes it
// fail.
type trouble struct {
	name  string
	dir   string // of the file system
	begin func() error
	end   func() error
}

// gone is the trouble in which nothing can be read either.
const gone = "the file system of /var/lib has gone"

var troubles = []trouble{
	{"/var/lib is full", "/var/lib", fill("/var/lib/filler"), remove("/var/lib/filler")},
	{"/run is full", "/run", fill("/run/filler"), remove("/run/filler")},
	{"/var/lib is read-only", "/var/lib", emergency, mendReadOnly},
	{gone, "/var/lib", shutDown, mountAgain},
}

// fill takes all blocks of a file system.
func fill(path string) func() error {
	return func() error {
		f, err := os.Create(path)
		if err != nil {
			return err
		}
		at := int64(0)
		for size := int64(1 << 30); size >= 1<<10; {
			switch err := unix.Fallocate(int(f.Fd()), 0, at, size); {
			case err == nil:
				at += size
			case errors.Is(err, unix.ENOSPC):
				size /= 2
			case !errors.Is(err, unix.EINTR):
				return errors.Join(err, f.Close())
			}
		}
		return f.Close()
	}
}

func remove(path string) func() error { return func() error { return os.Remove(path) } }

// emergency makes the file systems on disks read-only, also for those that have
// files open for writing, as ext4 itself does after an error
// (drivers/tty/sysrq.c, 'u').
func emergency() error {
	if err := os.WriteFile("/proc/sysrq-trigger", []byte("u"), 0); err != nil {
		return err
	}
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		var st unix.Statfs_t
		if err := unix.Statfs("/var/lib", &st); err != nil {
			return err
		}
		if st.Flags&unix.ST_RDONLY != 0 {
			return nil
		}
	}
	return errors.New("/var/lib does not become read-only")
}

func mendReadOnly() error { return unix.Mount("", "/var/lib", "", unix.MS_REMOUNT, "") }

// shutDown has each further access fail with EIO; nothing more reaches the disk,
// also of what was written before and not synced (ext4, EXT4_IOC_SHUTDOWN with
// EXT4_GOING_FLAGS_NOLOGFLUSH, fs/ext4/ext4.h).
func shutDown() error {
	const request, noLogFlush = 0x8004587d, 2
	dir, err := os.Open("/var/lib")
	if err != nil {
		return err
	}
	defer dir.Close()
	flags := uint32(noLogFlush)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, dir.Fd(), request, uintptr(unsafe.Pointer(&flags))); errno != 0 {
		return errno
	}
	return nil
}

// mountAgain reads what is on the disk.
func mountAgain() error {
	if err := unix.Unmount("/var/lib", 0); err != nil {
		return fmt.Errorf("unmount: %w", err)
	}
	return mountDisk()
}

// TestDisk has a file system fail at each point that concerns it, and stay so. A
// kmmd that comes to its end must leave the node on one of the two sides, and one
// that is started on the mended disk must end as wanted.
func TestDisk(t *testing.T) {
	short := map[string][]int{"/run is full, swap": {10}, "/var/lib is read-only, upgrade": {20}}
	for _, tr := range troubles {
		for _, s := range changes {
			name := tr.name + ", " + s.name
			t.Run(name, func(t *testing.T) {
				s.each(t, below(tr.dir), short[name], func(t *testing.T, at place) {
					defer counts.Case(t, "disk: "+tr.name)()
					s.begin(t)
					unix.Sync() // what was there before was there for long
					s.inTrouble(t, tr, at)
				})
			})
		}
	}
}

func (s *scenario) inTrouble(t *testing.T, tr trouble, at place) {
	t.Helper()
	begun := false
	mend := func() {
		if begun {
			require.NoError(t, tr.end())
			begun = false
		}
	}
	t.Cleanup(mend)
	var troubled error
	code := watched(t, func(_ *exec.Cmd, p points.Point) points.Verdict {
		if at.here(p) {
			begun, troubled = true, tr.begin()
		}
		return points.Go
	})
	require.NoError(t, troubled)
	require.GreaterOrEqual(t, code, 0)
	if tr.name == gone {
		mend() // before that there is nothing to look at
	}
	s.requireSideOfKernel(t)
	mend()
	s.requireComplete(t)
}

// TestError has a single call fail, at each point.
func TestError(t *testing.T) {
	short := map[string][]int{"EIO, swap": {30}}
	for _, errno := range []unix.Errno{unix.EIO, unix.ENOSPC} {
		for _, s := range changes {
			name := unix.ErrnoName(errno) + ", " + s.name
			t.Run(name, func(t *testing.T) {
				s.each(t, below("/var/lib", "/run", filepath.Dir(pathFile)), short[name], func(t *testing.T, at place) {
					defer counts.Case(t, "one "+unix.ErrnoName(errno))()
					s.begin(t)
					code := watched(t, func(_ *exec.Cmd, p points.Point) points.Verdict {
						if at.here(p) {
							return points.Fail(errno)
						}
						return points.Go
					})
					require.GreaterOrEqual(t, code, 0)
					s.requireSide(t)
					s.requireComplete(t)
				})
			})
		}
	}
}
