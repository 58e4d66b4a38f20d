// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	"github.com/kmm-node/kmmd/pkg/devices"
	"github.com/kmm-node/kmmd/pkg/kernel"
)

// sight is what somebody sees and can do in the container.
type sight struct {
	Load      string // errno of loading kmm_fail, which says ENODEV itself
	Words     bool   // the kernel's words about that
	Unread    string // why symbol versions can not be read
	Addresses bool   // of kallsyms
	Open      int    // processes that have kmm_base open
	Blind     bool   // it is known that what interfaces are used for is not
	Keyrings  int
	Lockdown  bool
	Writes    []string // files of the node that should be out of reach
	Reads     []string
	Devices   []string
}

// look is run in the container, and writes what it sees.
func look(file string) {
	var s sight
	host, err := kernel.Open("/host")
	if err == nil {
		s.load(host)
		var symbols *kernel.Symbols
		if symbols, err = host.Symbols(); err == nil {
			s.Addresses = symbols.Known
			if symbols.Unread != nil {
				s.Unread = symbols.Unread.Error()
			}
		}
		security := host.Security()
		s.Keyrings, s.Lockdown = len(security.Keyrings), security.Lockdown != ""
	}
	use, _ := devices.Open("/host").Of("kmm_base")
	s.Open = len(use.Files)
	_, blind := devices.Open("/host").Of("virtio_net")
	s.Blind = errors.Is(blind, devices.ErrOtherNetwork)
	for _, name := range []string{"/x", "/host/x", "/host/lib/x", "/host/boot/x", "/host/etc/modprobe.d/x", "/etc/kmmd/modules.d/x", "/proc/sys/kernel/x",
		"/host/proc/sys/kernel/sysrq", "/sys/module/firmware_class/parameters/path"} {
		if f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE, 0o600); err == nil {
			_ = f.Close()
			s.Writes = append(s.Writes, name)
		}
	}
	for _, name := range []string{"/host/etc/passwd", "/host/root", "/host/var", "/proc/kcore"} {
		if f, err := os.Open(name); err == nil {
			b := make([]byte, 1)
			if n, _ := f.Read(b); n > 0 {
				s.Reads = append(s.Reads, name)
			}
			_ = f.Close()
		}
	}
	for _, name := range []string{"/dev/kmsg", "/dev/mem", "/dev/vda", "/host/dev"} {
		if _, err := os.Stat(name); err == nil {
			s.Devices = append(s.Devices, name)
		}
	}
	data, jsonErr := json.Marshal(s)
	if err := errors.Join(err, jsonErr, os.WriteFile(file, data, 0o600)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func (s *sight) load(host *kernel.Host) {
	f, err := os.Open("/modules/kmm_fail.ko")
	if err != nil {
		s.Load = err.Error()
		return
	}
	defer f.Close()
	err = host.Load(context.Background(), kernel.LoadRequest{Name: "kmm_fail", File: f})
	var said *kernel.Error
	if errors.As(err, &said) {
		s.Load = said.Err.Error()
		s.Words = strings.Contains(strings.Join(said.Log, "\n"), "no such hardware")
	}
}

// seen runs look in the pod's container, changed.
func seen(t *testing.T, change func(*corev1.SecurityContext)) (s sight) {
	t.Helper()
	object, toml := agent(t)
	c := &object.Spec.Containers[0]
	c.Command, c.Args = []string{"/inside"}, nil
	c.Env = []corev1.EnvVar{{Name: insideEnv, Value: "/tmp/sight"}}
	if change != nil {
		change(c.SecurityContext)
	}
	const kept = "/run/sight"
	require.NoError(t, os.RemoveAll(kept))
	require.NoError(t, os.MkdirAll(kept, 0o755))
	for i, v := range object.Spec.Volumes {
		if v.Name == "tmp" {
			kind := corev1.HostPathDirectory
			object.Spec.Volumes[i].VolumeSource = corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: kept, Type: &kind}}
		}
	}
	out, err := container(t, object, toml).CombinedOutput()
	require.NoError(t, err, "%s", out)
	data, err := os.ReadFile(kept + "/sight")
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(data, &s))
	return s
}

// TestCapabilities: with those of the manifest all is seen that kmmd looks for, and nothing else can be done. Without any one
// of them something is missing; TestHostNetwork is about NET_ADMIN.
func TestCapabilities(t *testing.T) {
	require.NoError(t, run("insmod", modules+"/kmm_base.ko"))
	t.Cleanup(func() { assert.NoError(t, run("rmmod", "kmm_base")) })
	t.Cleanup(hold(t, "/dev/kmm_base"))
	all := sight{Load: "no such device", Words: true, Addresses: true, Open: 1, Blind: true, Keyrings: 2, Lockdown: true}
	whole := seen(t, nil)
	assert.GreaterOrEqual(t, whole.Keyrings, 1, "/host/proc/keys is not masked")
	all.Keyrings = whole.Keyrings
	assert.Equal(t, all, whole)
	tests := []struct {
		capability corev1.Capability
		less       func(s *sight)
	}{
		{"SYS_MODULE", func(s *sight) { s.Load, s.Words = "operation not permitted", false }},
		{"SYSLOG", func(s *sight) { s.Words, s.Addresses, s.Unread = false, false, "CAP_SYSLOG" }},
		{"SYS_RAWIO", func(s *sight) { s.Unread = "/host/proc/kcore: operation not permitted" }},
		{"SYS_PTRACE", func(s *sight) { s.Open = 0 }},
		{"DAC_READ_SEARCH", func(s *sight) { s.Open = 0 }},
	}
	for _, tt := range tests {
		t.Run(string(tt.capability), func(t *testing.T) {
			want := all
			tt.less(&want)
			got := seen(t, func(c *corev1.SecurityContext) {
				c.Capabilities.Add = slices.DeleteFunc(c.Capabilities.Add, func(have corev1.Capability) bool { return have == tt.capability })
			})
			assert.Contains(t, got.Unread, want.Unread)
			got.Unread = want.Unread
			assert.Equal(t, want, got)
		})
	}
}
