// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"strings"

	"github.com/stretchr/testify/assert"
)

// claimed: a second Module, whose plugin is a DRA driver. A pod claims the device
// that the module has made, and has it open.
func (w *world) claimed() {
	w.step("A DRA driver, and a pod that claims a device")
	const manifest = "test/e2e/testdata/dra.yaml"
	w.kubectl("apply", "-f", manifest)
	w.ask("wait", "--for=condition=Ready", "--timeout=15m", "-n", "drivers", "pod/claimant")
	w.kubectl("get", "pods", "-n", "drivers", "-o", "wide")
	w.kubectl("get", "resourceslices", "-o", "custom-columns=NODE:.spec.nodeName,DRIVER:.spec.driver,DEVICES:.spec.devices[*].name")
	w.labelled("kmm.node.kubernetes.io/drivers.base.dra-ready", "worker-1")
	assert.Equal(w.t, "worker-1", w.ask("get", "pods", "-n", "drivers", "claimant", "-o", "jsonpath={.spec.nodeName}"))
	assert.Equal(w.t, "worker-1", w.ask("get", "resourceslices", "-o", "jsonpath={.items[*].spec.nodeName}"))
	assert.Contains(w.t, w.show("logs", "-n", "drivers", "claimant"), "works with kmm-base of build "+buildOf(w.t, w.releases[0], "kmm_base"))
	w.print("# worker-1: users of kmm_base: %s", w.one.Run("cat /sys/module/kmm_base/refcnt"))
	assert.Equal(w.t, "1", w.one.Run("cat /sys/module/kmm_base/refcnt"))
	w.why("kmm_base", "/pods")

	w.kubectl("delete", "pod", "claimant", "-n", "drivers", "--timeout=15m")
	w.kubectl("delete", "--timeout=15m", "-f", manifest, "--ignore-not-found")
	assert.Equal(w.t, "gone", w.one.Run("test -e /sys/module/kmm_base || echo gone"))
	assert.Empty(w.t, w.ask("get", "deviceclasses", "-o", "name"))
	w.labelled("kmm.node.kubernetes.io/drivers.base.ready")
}

// why has kmmd say who uses a module, until it says that: somebody does, so it
// exits with 1.
func (w *world) why(module, want string) {
	w.t.Helper()
	args := []string{"exec", "-n", "kmm-system", w.agents("worker-1")[0].name, "--", "kmmd", "why", module, "--config=/etc/kmmd/config/kmmd.toml"}
	w.wait("kmmd says who uses "+module, func() error {
		out, err := cluster.Run(w.t.Context(), "", args...)
		if !strings.Contains(out, want) {
			return fmt.Errorf("it says %s: %w", out, err)
		}
		w.print("$ kubectl %s\n%s", strings.Join(args, " "), out)
		return nil
	})
}
