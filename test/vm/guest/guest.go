// SPDX-License-Identifier: Apache-2.0

// Package guest is what tests share that run inside a VM of the lab.
package guest

import (
	"errors"
	"io"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// OneKernel is for tests of kmmd that the kernel's version makes no difference to, and so do not have to be run on each: it
// skips the test when KMMD_VM_BRIEF says that another kernel has had it, as make vm does for all kernels but the first.
func OneKernel(t testing.TB) {
	t.Helper()
	if os.Getenv("KMMD_VM_BRIEF") != "" {
		t.Skip("not about the kernel: another one has had it (make vm FULL=1 runs it on each)")
	}
}

// Get fetches a page of kmmd's own server, as it is without a configuration; "" when there is none.
func Get(path string) string {
	resp, err := http.Get("http://127.0.0.1:9808" + path)
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return ""
	}
	return string(body)
}

// Unload removes a module that may have come this moment: until the load gives back its own reference, which it does after the
// module is seen as live, delete_module(2) says EWOULDBLOCK (do_init_module in kernel/module/main.c, Linux 6.1). Needs
// CAP_SYS_MODULE.
func Unload(t testing.TB, name string) {
	t.Helper()
	var err error
	require.Eventually(t, func() bool {
		err = unix.DeleteModule(name, unix.O_NONBLOCK)
		return !errors.Is(err, unix.EWOULDBLOCK)
	}, time.Minute, 10*time.Millisecond, "%s is in use", name)
	require.NoError(t, err, "rmmod %s", name)
}
