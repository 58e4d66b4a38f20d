// SPDX-License-Identifier: Apache-2.0

package confine

import "golang.org/x/sys/unix"

const architecture = unix.AUDIT_ARCH_AARCH64

// refusedHere are those of refused that other architectures do not have.
func refusedHere() []uint32 { return []uint32{unix.SYS_NFSSERVCTL, unix.SYS_LOOKUP_DCOOKIE} }
