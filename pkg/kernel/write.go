// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

const opWrite = "write"

// WriteRequest is a text for a file of sysfs by which the kernel calls a driver: bind, unbind, drivers_probe, sriov_numvfs.
type WriteRequest struct {
	Device  string   // whose lock the kernel holds meanwhile: "0000:00:02.0"
	Driver  string   // to find the kernel's lines about it; may be ""
	File    *os.File // open for writing
	Text    string
	Timeout time.Duration // 0 is DefaultTimeout
}

// hang is a write that the kernel did not answer in time.
type hang struct {
	path  string
	ended <-chan struct{} // closed when the child has come back from the kernel
}

// Write writes a short text into a file, in a child and with a deadline as Load does: the kernel calls probe or remove of a
// driver in the thread that writes, with the device locked (drivers/base/bus.c, bind_store and unbind_store; drivers/pci/iov.c,
// sriov_numvfs_store). The child is one of its own, which may do nothing but this write.
//
// Any failure of the kernel is an *Error with its errno and its words. ErrTimeout is returned when it does not answer: it may
// still do what it was asked to. Until the call has come back, everything else that is written for this device would wait
// for the same lock, and is refused at once, with ErrTimeout too.
//
// Once the child was started ctx can not stop it. The caller closes File. Needs what opening the file took, and CAP_SYSLOG for
// the kernel's words.
func (h *Host) Write(ctx context.Context, r WriteRequest) error {
	if r.File == nil {
		return &Error{Op: opWrite, Module: r.Device, Err: errors.New("no file given")}
	}
	path := r.File.Name()
	if err := errors.Join(ctx.Err(), h.Hanging(r.Device)); err != nil {
		return &Error{Op: opWrite, Module: path, Err: err}
	}
	if r.Timeout <= 0 {
		r.Timeout = DefaultTimeout
	}
	log := h.openKmsg()
	defer log.close()
	order := syscallRequest{call: callWrite, text: r.Text, file: r.File}
	ended, err := order.run(h.exe, childName(filepath.Base(path), r.Device), r.Timeout)
	if err == nil {
		return nil
	}
	if errors.Is(err, ErrTimeout) {
		err = h.noteHang(r, err, ended)
	}
	return &Error{Op: opWrite, Module: path, Err: err, Log: log.about(r.Driver)}
}

// Hanging returns what Write says about a device for which the kernel has not answered an earlier one yet, and nil for any
// other. It does not wait.
func (h *Host) Hanging(device string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	last, ok := h.hangs[device]
	if !ok {
		return nil
	}
	select {
	case <-last.ended:
		delete(h.hangs, device)
		return nil
	default:
		return fmt.Errorf("%w an earlier call (%s), which has to come back first", ErrTimeout, last.path)
	}
}

// noteHang remembers a write that was not answered, and says what that means. One whose child is gone as soon as it is killed
// is not waited for: the driver let itself be interrupted, or its thread has crashed, and nobody will give the lock back. Who
// writes next will see.
func (h *Host) noteHang(r WriteRequest, err error, ended <-chan struct{}) error {
	select {
	case <-ended:
		return fmt.Errorf("%w within %s: it was interrupted, or has crashed in the driver", err, r.Timeout)
	default:
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.hangs == nil {
		h.hangs = map[string]hang{}
	}
	h.hangs[r.Device] = hang{r.File.Name(), ended}
	return fmt.Errorf("%w within %s: the driver still is at it, and nothing else is done with %s until it comes back; "+
		"if it never does, only a reboot helps", err, r.Timeout, r.Device)
}
