// SPDX-License-Identifier: Apache-2.0

// Package pod runs kmmd in a VM of the lab in a container as deploy/base/agent.yaml
// asks for it: by crun, with these capabilities and mounts, containerd's seccomp
// filter and masks, a read-only root file system, and the pod's own network.
package pod

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/kmm-node/kmmd/pkg/images/imagestest"
	"github.com/kmm-node/kmmd/pkg/kernel"
	"github.com/kmm-node/kmmd/pkg/kmod"
	"github.com/kmm-node/kmmd/pkg/spec"
	"github.com/kmm-node/kmmd/test/cluster/podrun"
)

const (
	modules   = "/kmmd-test/modules"
	patience  = 90 * time.Second
	tools     = "/src/.lab/crun"
	nodeSide  = "10.77.0.1" // of the pod's network
	podSide   = "10.77.0.2"
	insideEnv = "KMMD_INSIDE"
)

func TestMain(m *testing.M) {
	kernel.RunChild()
	if file := os.Getenv(insideEnv); file != "" {
		look(file)
		return
	}
	if os.Getenv("KMMD_VM") == "" {
		fmt.Println("skip: not in a VM of the lab, run it by -exec test/vm/exec")
		return
	}
	if err := prepare(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// prepare makes the VM more like a node: kernel's addresses and log are hidden as
// Debian does, crun finds what it needs.
func prepare() error {
	filter, err := os.ReadFile(tools + "/seccomp.json")
	if err != nil {
		return fmt.Errorf("%w: set KMMD_VM_FILES, see test/vm/crun", err)
	}
	return errors.Join(
		os.MkdirAll("/usr/share/containers", 0o755), os.WriteFile("/usr/share/containers/seccomp.json", filter, 0o644),
		os.WriteFile("/proc/sys/kernel/dmesg_restrict", []byte("1"), 0), os.WriteFile("/proc/sys/kernel/kptr_restrict", []byte("1"), 0),
		run("mount", "-t", "cgroup2", "none", "/sys/fs/cgroup"),
		run("ip", "netns", "add", "pod"),
		run("ip", "link", "add", "pod0", "type", "veth", "peer", "name", "eth0", "netns", "pod"),
		run("ip", "addr", "add", nodeSide+"/24", "dev", "pod0"), run("ip", "link", "set", "pod0", "up"),
		run("ip", "-n", "pod", "addr", "add", podSide+"/24", "dev", "eth0"), run("ip", "-n", "pod", "link", "set", "eth0", "up"),
		run("ip", "-n", "pod", "link", "set", "lo", "up"),
	)
}

func run(name string, args ...string) error {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

// agent is the pod of the DaemonSet, with what its ConfigMap has.
func agent(t *testing.T) (*corev1.Pod, string) {
	t.Helper()
	f, err := os.Open("/src/deploy/base/agent.yaml")
	require.NoError(t, err)
	defer f.Close()
	var set appsv1.DaemonSet
	var config corev1.ConfigMap
	in := yaml.NewDecoder(f)
	for _, to := range []any{&config, &set} {
		var document any
		require.NoError(t, in.Decode(&document))
		data, err := json.Marshal(document)
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(data, to))
	}
	object := &corev1.Pod{ObjectMeta: set.Spec.Template.ObjectMeta, Spec: set.Spec.Template.Spec}
	object.Name, object.UID = "kmmd", "pod"
	object.Spec.Containers[0].Env = nil // there is no cluster that it would ask
	text := config.Data["kmmd.toml"]
	require.Contains(t, text, "enabled = true")
	return object, strings.Replace(text, "enabled = true", "enabled = false", 1)
}

// network is where the pod has its network, as the file of a namespace.
func network(object *corev1.Pod) string {
	if object.Spec.HostNetwork {
		return ""
	}
	return "/run/netns/pod"
}

// container is one that is to be run.
func container(t *testing.T, object *corev1.Pod, toml string) *exec.Cmd {
	t.Helper()
	dir := t.TempDir()
	for _, v := range object.Spec.Volumes { // as the kubelet
		if v.HostPath != nil && *v.HostPath.Type == corev1.HostPathDirectoryOrCreate {
			require.NoError(t, os.MkdirAll(v.HostPath.Path, 0o755))
		}
	}
	for name, content := range map[string]string{"config/kmmd.toml": toml, "tmp/empty": ""} {
		file := filepath.Join(dir, "volumes", name)
		require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
		require.NoError(t, os.WriteFile(file, []byte(content), 0o644))
	}
	self, err := os.Executable()
	require.NoError(t, err)
	image := podrun.Image{Binds: map[string]string{"/kmmd": "/usr/bin/kmmd", "/inside": self, "/modules": modules}, Entrypoint: []string{"/kmmd"}}
	bundle, err := podrun.Bundle(dir, object, "kmmd", image, network(object))
	require.NoError(t, err)
	// No pivot: the root file system of the VM is its first, which can not be left.
	cmd := exec.Command(tools+"/crun", "--root", filepath.Join(dir, "state"), "--cgroup-manager=disabled", "run", "--no-pivot", "--bundle", bundle, "kmmd")
	cmd.Env = append(os.Environ(), "LD_LIBRARY_PATH="+tools+"/lib")
	return cmd
}

// daemon runs kmmd as the pod does, until the test ends.
func daemon(t *testing.T, object *corev1.Pod, toml string) {
	t.Helper()
	cmd := container(t, object, toml)
	var log strings.Builder
	cmd.Stdout, cmd.Stderr = &log, &log
	require.NoError(t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		assert.NoError(t, cmd.Process.Signal(os.Interrupt))
		err := <-ended
		if t.Failed() {
			t.Logf("kmmd: %v\n%s", err, log.String())
		}
	})
}

// registry has the registry at an address of the pod's network, too.
func registry(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", nodeSide+":0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			go pass(in)
		}
	}()
	return l.Addr().String()
}

func pass(in net.Conn) {
	defer in.Close()
	out, err := net.Dial("tcp", os.Getenv("KMMD_VM_REGISTRY"))
	if err != nil {
		return
	}
	defer out.Close()
	go func() { _, _ = io.Copy(out, in) }()
	_, _ = io.Copy(in, out)
}

// image pushes an image with these files of modules, and firmware.
func image(t *testing.T, at, name string, firmware map[string]string, files ...string) string {
	t.Helper()
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	require.NoError(t, err)
	content := map[string]string{}
	for path, text := range firmware {
		content["firmware/"+path] = text
	}
	for _, f := range files {
		data, err := os.ReadFile(filepath.Join(modules, f))
		require.NoError(t, err)
		content["opt/lib/modules/"+strings.TrimSpace(string(release))+"/"+f] = string(data)
	}
	imagestest.Push(t, os.Getenv("KMMD_VM_REGISTRY")+"/pod/"+name+":1", imagestest.Layer(t, content))
	return at + "/pod/" + name + ":1"
}

// want puts a document into the node's directory, until the test ends.
func want(t *testing.T, name, image, modprobe, more string) {
	t.Helper()
	file := "/etc/kmmd/modules.d/" + name + ".yaml"
	text := fmt.Sprintf(`{apiVersion: kmm.sigs.x-k8s.io/v1beta1, kind: Module, metadata: {name: %s}, spec: {selector: {}, moduleLoader: {container: {
modprobe: {moduleName: %s}, registryTLS: {insecure: true}, kernelMappings: [{regexp: '.', containerImage: %q}]%s}}}}
`, name, modprobe, image, more)
	require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
	require.NoError(t, os.WriteFile(file+".new", []byte(text), 0o644))
	require.NoError(t, os.Rename(file+".new", file))
	t.Cleanup(func() { _ = os.Remove(file) })
}

func unwant(t *testing.T, name string) {
	t.Helper()
	require.NoError(t, os.Remove("/etc/kmmd/modules.d/"+name+".yaml"))
}

// eventually waits for what check says to be nothing.
func eventually(t *testing.T, what string, check func() string) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		still := check()
		if still == "" {
			return
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			require.FailNow(t, what, still)
		}
	}
}

// status waits until kmmd says of a Module what is wanted.
func status(t *testing.T, name string, ok func(spec.ModuleStatus) bool) (found spec.ModuleStatus) {
	t.Helper()
	eventually(t, "the status of "+name, func() string {
		data, err := os.ReadFile("/run/kmmd/status.json")
		if err != nil {
			return err.Error()
		}
		var s spec.Status
		if err := json.Unmarshal(data, &s); err != nil {
			return err.Error()
		}
		for _, m := range slices.Concat(s.Modules, s.Leaving) {
			if m.Name == name && ok(m) {
				found = m
				return ""
			}
		}
		return string(data)
	})
	return found
}

func loaded(m spec.ModuleStatus) bool { return m.State == spec.StateLoaded }

// runs says whether the kernel runs that very file.
func runs(t *testing.T, file string) bool {
	t.Helper()
	info, err := kmod.ReadInfo(filepath.Join(modules, file))
	require.NoError(t, err)
	host, err := kernel.Open("")
	require.NoError(t, err)
	m, err := host.Module(info.Name)
	return err == nil && m.BuildID == info.BuildID
}

func absent(name string) string {
	if _, err := os.Stat("/sys/module/" + name); err == nil {
		return name + " is there"
	}
	return ""
}
