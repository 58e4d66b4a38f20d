// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/kernel"
)

// What follows can not be undone before the next boot: it must run last, in this order.

// TestOops kills the thread that loads. On Linux 6.12 a later load, one in some 250, runs into what that has left, and oopses with
// a lock held: the kernel is told to panic then, and test/vm/exec begins anew.
func TestOops(t *testing.T) {
	h := open(t)
	require.NoError(t, os.WriteFile("/proc/sys/kernel/oops_limit", []byte("2"), 0))
	err := load(t, h, "kmm_oops.ko", "", 15*time.Second)
	require.ErrorIs(t, err, kernel.ErrTimeout)
	assert.Equal(t, kernel.Timeout, kernel.CauseOf(err))
	assert.ErrorContains(t, err, "BUG: ")
	assert.ErrorContains(t, err, "kmm_oops_init")

	m, err := h.Module("kmm_oops")
	require.NoError(t, err)
	assert.Equal(t, kernel.StateComing, m.State)
	require.ErrorIs(t, h.Unload(t.Context(), "kmm_oops", time.Minute), kernel.ErrBusy)
	require.NoError(t, load(t, h, "kmm_base.ko", "", 0), "others still load")
	require.NoError(t, h.Unload(t.Context(), "kmm_base", 0))
	require.Eventually(t, func() bool { return zombies(t) == 0 }, time.Minute, 10*time.Millisecond)
}

// TestPolicies switches on one after the other what keeps modules out.
func TestPolicies(t *testing.T) {
	h := open(t)
	tests := []struct {
		name, path, value string
		errno             syscall.Errno
		cause             kernel.Cause
		log               string
	}{
		{"lockdown", "/sys/kernel/security/lockdown", "integrity", syscall.EPERM, kernel.Lockdown,
			`kernel: "Lockdown: kmmd-child: unsigned module loading is restricted; see man kernel_lockdown.7"`},
		{"signatures", "/sys/module/module/parameters/sig_enforce", "Y", syscall.EKEYREJECTED, kernel.Signature,
			`kernel: "Loading of unsigned module is rejected"`},
		{"no modules", "/proc/sys/kernel/modules_disabled", "1", syscall.EPERM, kernel.Permission, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			require.NoError(t, os.WriteFile(tt.path, []byte(tt.value), 0o644))
			err := load(t, h, "kmm_base.ko", "", 0)
			require.ErrorIs(t, err, tt.errno)
			assert.Equal(t, tt.cause, kernel.CauseOf(err))
			assert.ErrorContains(t, err, tt.log)
		})
	}
}
