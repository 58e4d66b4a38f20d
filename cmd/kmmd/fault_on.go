// SPDX-License-Identifier: Apache-2.0

//go:build fault

package main

import (
	"os"
	"strconv"
	"syscall"
)

// afterStep kills the process without warning after as many steps as
// KMMD_FAULT_KILL_AFTER says. Only in binaries built for tests.
func afterStep() func() {
	left, err := strconv.Atoi(os.Getenv("KMMD_FAULT_KILL_AFTER"))
	if err != nil {
		return nil
	}
	return func() {
		if left--; left == 0 {
			if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
				panic(err)
			}
		}
	}
}
