// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"
)

// ErrOtherNetwork is returned for a module that carries interfaces of the node when this process is in another network
// namespace, as a pod without hostNetwork is: what they are needed for can not be seen, nor given back.
var ErrOtherNetwork = errors.New("kmmd does not run in the network namespace of the node (hostNetwork), and can not tell whether they are in use")

// inNodeNetwork says whether this process is in the network namespace of process 1; where that can not be told, it is not.
// Each namespace has files of its own in /proc/PID/net, with numbers of their own whatever mount of procfs they are seen in
// (fs/proc/proc_net.c, get_proc_task_net; fs/proc/generic.c, proc_register). Anybody may look at them, while the link
// /proc/1/ns/net needs CAP_SYS_PTRACE and the consent of AppArmor (fs/proc/namespaces.c, proc_ns_readlink).
func (h *Host) inNodeNetwork() bool {
	ours, err := os.Stat("/proc/self/net/dev")
	if err != nil {
		return false
	}
	nodes, err := os.Stat(h.path("proc/1/net/dev"))
	return err == nil && inode(ours) == inode(nodes)
}

func inode(info fs.FileInfo) uint64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Ino
	}
	return 0
}

// unseen returns ErrOtherNetwork with the names of interfaces that go with the module, nil when there are none. Sysfs shows those
// of the namespace in which it was mounted, the node's.
func (h *Host) unseen(module string, bound []boundDevice) error {
	var list []string
	for _, name := range names(h.path("sys/class/net")) {
		if _, path := h.identify(name); on(path, bound) || path == "" && h.implements(module, name) {
			list = append(list, name)
		}
	}
	if len(list) == 0 {
		return nil
	}
	return fmt.Errorf("%s: %w", strings.Join(list, ", "), ErrOtherNetwork)
}

// implements says whether an interface without a device looks like one of the module's: by its kind as far as
// /sys/class/net/NAME/uevent tells ("DEVTYPE=bridge"), else by its name (dummy0).
func (h *Host) implements(module, name string) bool {
	for line := range strings.Lines(h.line("sys/class/net", name, "uevent")) {
		if kind, ok := strings.CutPrefix(strings.TrimSpace(line), "DEVTYPE="); ok {
			return canonical(kind) == module || kindModule[kind] == module
		}
	}
	return canonical(strings.TrimRight(name, "0123456789")) == module
}
