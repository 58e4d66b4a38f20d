// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

const (
	uid = "2ca9d7f6-0c3e-4a5b-9d1f-0123456789ab"
	us  = "2ca9d7f6_0c3e_4a5b_9d1f_0123456789ab"

	// another is the UID of another pod.
	another = "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"
	// static is the UID kubelet gives a pod from a file.
	static = "4c5b9d1f0123456789ab2ca9d7f60c3e"

	id = "0ab1c2d3e4f5061728394a5b6c7d8e9f0ab1c2d3e4f5061728394a5b6c7d8e9f"

	v2 = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + us + ".slice"
)

func TestPodOf(t *testing.T) {
	tests := []struct{ name, cgroup, want string }{
		{"v2 systemd burstable, containerd", "0::" + v2 + "/cri-containerd-" + id + ".scope\n", uid},
		{"v2 systemd besteffort, cri-o",
			"0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod" + us + ".slice/crio-" + id + ".scope\n", uid},
		{"v2 systemd, below cri-o's scope", "0::" + v2 + "/crio-" + id + ".scope/container\n", uid},
		{"v2 systemd guaranteed, docker", "0::/kubepods.slice/kubepods-pod" + us + ".slice/docker-" + id + ".scope\n", uid},
		{"v2 systemd, the pod itself", "0::" + v2 + "\n", uid},
		{"v2 cgroupfs burstable", "0::/kubepods/burstable/pod" + uid + "/" + id + "\n", uid},
		{"v2 cgroupfs besteffort", "0::/kubepods/besteffort/pod" + uid + "/" + id + "\n", uid},
		{"v2 cgroupfs guaranteed", "0::/kubepods/pod" + uid + "/" + id + "\n", uid},
		{"v2 cri-o cgroupfs", "0::/kubepods/besteffort/pod" + uid + "/crio-" + id + "\n", uid},
		{"v2 static pod", "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + static +
			".slice/cri-containerd-" + id + ".scope\n", static},
		{"v2 static pod, cgroupfs", "0::/kubepods/pod" + static + "/" + id + "\n", static},
		{"v2 kind", "0::/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod" +
			us + ".slice/cri-containerd-" + id + ".scope\n", uid},
		{"v2 from another cgroup namespace", "0::/../../kubepods-burstable.slice/kubepods-burstable-pod" + us +
			".slice/cri-containerd-" + id + ".scope\n", uid},
		{"v2 without a newline", "0::" + v2, uid},
		{"v1 cgroupfs, docker", "12:pids:/kubepods/burstable/pod" + uid + "/" + id + "\n4:memory:/kubepods/burstable/pod" + uid +
			"/" + id + "\n1:name=systemd:/kubepods/burstable/pod" + uid + "/" + id + "\n", uid},
		{"v1 systemd", "4:cpu,cpuacct:/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod" + us +
			".slice/docker-" + id + ".scope\n", uid},
		{"v1 only some controllers, and v2", "5:misc:/\n4:memory:/kubepods/pod" + uid + "/" + id + "\n0::/system.slice/containerd.service\n", uid},
		{"v1 containerd below its service",
			"4:memory:/system.slice/containerd.service/kubepods-burstable-pod" + us + ".slice:cri-containerd:" + id + "\n", uid},
		{"a pod's own control groups do not make it another", "0::" + v2 + "/cri-containerd-" + id + ".scope/kubepods/pod" + another + "\n", uid},

		{"nothing", "", ""},
		{"kernel thread", "0::/\n", ""},
		{"init", "0::/init.scope\n", ""},
		{"service", "0::/system.slice/kubelet.service\n", ""},
		{"session", "0::/user.slice/user-1000.slice/session-3.scope\n", ""},
		{"docker without Kubernetes", "0::/system.slice/docker-" + id + ".scope\n", ""},
		{"docker v1", "4:memory:/docker/" + id + "\n", ""},
		{"podman", "0::/machine.slice/machine-libpod_pod_" + id + ".slice/libpod-" + id + ".scope\n", ""},
		{"no kubelet's pod", "0::/user.slice/pod" + uid + "/x\n", ""},
		{"no pod of kubelet", "0::/kubepods.slice/kubepods-burstable.slice\n", ""},
		{"UID too short", "0::/kubepods/pod" + uid[1:] + "/" + id + "\n", ""},
		{"UID too long", "0::/kubepods/pod" + uid + "0/" + id + "\n", ""},
		{"not a UID", "0::/kubepods/pod../" + id + "\n", ""},
		{"no line", "kubepods/pod" + uid + "\n", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { assert.Equal(t, tt.want, podOf(tt.cgroup)) })
	}
}
