// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestMisbehave does what ../selftest asks for, to see that it is reported.
func TestMisbehave(t *testing.T) {
	switch how := os.Getenv("KMMD_LAB_MISBEHAVE"); how {
	case "":
	case "fail":
		t.Fatal("failed as asked")
	case "panic": // of the kernel
		require.NoError(t, os.WriteFile("/proc/sysrq-trigger", []byte("c"), 0o200))
	case "poweroff":
		require.NoError(t, os.WriteFile("/proc/sysrq-trigger", []byte("o"), 0o200))
		select {}
	case "hang":
		mustRun(t, "sleep", "1000")
	default:
		t.Fatalf("KMMD_LAB_MISBEHAVE=%s is not known", how)
	}
}
