// SPDX-License-Identifier: Apache-2.0

//go:build cgo

package confine

import (
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// libraryMay is what the C library calls besides when it starts and ends a thread for Go's runtime, and what the race detector
// does in one. What ships is built without: this is for its tests, and for who builds it in another way.
func libraryMay() []rule {
	rules := []rule{{unix.SYS_MPROTECT, []condition{{2, bpf.JumpBitsNotSet, unix.PROT_EXEC}}}}
	for _, call := range []uint32{unix.SYS_SET_ROBUST_LIST, unix.SYS_RSEQ} {
		rules = append(rules, rule{call: call})
	}
	return rules
}
