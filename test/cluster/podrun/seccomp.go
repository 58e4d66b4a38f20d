// SPDX-License-Identifier: Apache-2.0

package podrun

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// Those that a container has which is asked for nothing else (containerd,
// pkg/oci/spec.go).
var defaultCapabilities = []string{
	"CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_MKNOD", "CAP_NET_BIND_SERVICE",
	"CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
}

// All others, that may be asked for (capabilities(7)).
var moreCapabilities = []string{
	"CAP_AUDIT_CONTROL", "CAP_AUDIT_READ", "CAP_BLOCK_SUSPEND", "CAP_BPF", "CAP_CHECKPOINT_RESTORE", "CAP_DAC_READ_SEARCH", "CAP_IPC_LOCK",
	"CAP_IPC_OWNER", "CAP_LEASE", "CAP_LINUX_IMMUTABLE", "CAP_MAC_ADMIN", "CAP_MAC_OVERRIDE", "CAP_NET_ADMIN", "CAP_NET_BROADCAST",
	"CAP_PERFMON", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_MODULE", "CAP_SYS_NICE", "CAP_SYS_PACCT", "CAP_SYS_PTRACE", "CAP_SYS_RAWIO",
	"CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_SYSLOG", "CAP_WAKE_ALARM",
}

// capabilities of a container, before its user is taken into account: the kernel
// takes all from one that is not root.
func capabilities(security *corev1.SecurityContext) []string {
	all := slices.Concat(defaultCapabilities, moreCapabilities)
	if isTrue(security.Privileged) {
		return all
	}
	out := slices.Clone(defaultCapabilities)
	if security.Capabilities == nil {
		return out
	}
	for _, c := range security.Capabilities.Drop {
		out = slices.DeleteFunc(out, func(s string) bool { return c == "ALL" || s == "CAP_"+string(c) })
	}
	for _, c := range security.Capabilities.Add {
		if c == "ALL" {
			return all
		}
		out = append(out, "CAP_"+string(c))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// seccomp is the filter of a container (runtime-spec, config-linux.md).
type seccomp struct {
	DefaultAction string   `json:"defaultAction"`
	DefaultErrno  uint     `json:"defaultErrnoRet,omitempty"`
	Architectures []string `json:"architectures"`
	Syscalls      []rule   `json:"syscalls"`
}

type rule struct {
	Names  []string   `json:"names"`
	Action string     `json:"action"`
	Errno  *uint      `json:"errnoRet,omitempty"`
	Args   []argument `json:"args,omitempty"`
}

type argument struct {
	Index    uint   `json:"index"`
	Value    uint64 `json:"value"`
	ValueTwo uint64 `json:"valueTwo"`
	Op       string `json:"op"`
}

// profile is the default filter of podman and CRI-O, of the package
// golang-github-containers-common.
const profile = "/usr/share/containers/seccomp.json"

// What containerd lets only somebody with CAP_SYS_ADMIN do, and that file anybody.
var forAdministrators = []string{
	"fsmount", "fsopen", "mount", "mount_setattr", "move_mount", "pivot_root", "setns", "umount", "umount2", "unshare",
}

// cloneNamespaces are the flags of clone that make new namespaces.
const cloneNamespaces = 0x7e020000

// seccomp is nil for Unconfined, which the kubelet takes for the default, too.
func (p *pod) seccomp(security *corev1.SecurityContext, caps []string) (*seccomp, error) {
	wanted := security.SeccompProfile
	if wanted == nil && p.object.Spec.SecurityContext != nil {
		wanted = p.object.Spec.SecurityContext.SeccompProfile
	}
	if wanted == nil || wanted.Type == corev1.SeccompProfileTypeUnconfined {
		return nil, nil
	}
	if wanted.Type != corev1.SeccompProfileTypeRuntimeDefault {
		return nil, fmt.Errorf("the pod runner of the tests knows no seccomp profile %s", wanted.Type)
	}
	data, err := os.ReadFile(profile)
	if err != nil {
		return nil, fmt.Errorf("read seccomp profile: %w (test/vm/setup installs it)", err)
	}
	return parseSeccomp(data, caps)
}

// when says for whom a rule of the file is.
type when struct {
	Arches, Caps []string
}

// parseSeccomp makes the filter for somebody with these capabilities.
func parseSeccomp(data []byte, caps []string) (*seccomp, error) {
	var file struct {
		DefaultAction   string
		DefaultErrnoRet uint
		Syscalls        []struct {
			rule
			Includes, Excludes when
		}
	}
	if err := json.Unmarshal(data, &file); err != nil {
		return nil, fmt.Errorf("read seccomp profile: %w", err)
	}
	out := &seccomp{DefaultAction: file.DefaultAction, DefaultErrno: file.DefaultErrnoRet, Architectures: []string{"SCMP_ARCH_X86_64"}}
	administrator := slices.Contains(caps, "CAP_SYS_ADMIN")
	for _, s := range file.Syscalls {
		here := len(s.Includes.Arches) == 0 || slices.Contains(s.Includes.Arches, "amd64")
		for _, c := range s.Includes.Caps {
			here = here && slices.Contains(caps, c)
		}
		for _, c := range s.Excludes.Caps {
			here = here && !slices.Contains(caps, c)
		}
		if !administrator {
			s.Names = slices.DeleteFunc(s.Names, func(n string) bool {
				return slices.Contains(forAdministrators, n) || n == "clone" || n == "clone3"
			})
		}
		if here && len(s.Names) > 0 {
			out.Syscalls = append(out.Syscalls, s.rule)
		}
	}
	if !administrator {
		const permission = 1
		errno := uint(permission)
		out.Syscalls = append(out.Syscalls,
			rule{Names: forAdministrators, Action: "SCMP_ACT_ERRNO", Errno: &errno},
			rule{Names: []string{"clone"}, Action: "SCMP_ACT_ALLOW", Args: []argument{{Value: cloneNamespaces, Op: "SCMP_CMP_MASKED_EQ"}}})
	}
	return out, nil
}
