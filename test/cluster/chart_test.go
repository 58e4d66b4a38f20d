// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/test/cluster/lab"
)

// helm runs helm, with the access of a cluster.
func helm(t *testing.T, c *lab.Cluster, args ...string) (stdout string, err error) {
	t.Helper()
	program, err := filepath.Abs(repository + "/.lab/helm/bin/helm")
	require.NoError(t, err)
	require.FileExists(t, program, "run test/cluster/helm/setup (make setup-cluster)")
	home := t.TempDir()
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Dir = repository
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.KubeconfigPath(), "HOME="+home, "HELM_CACHE_HOME="+home, "HELM_CONFIG_HOME="+home, "HELM_DATA_HOME="+home)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("helm %s: %w: %s", strings.Join(args, " "), err, errs.String())
	}
	return out.String(), nil
}

// chart renders the chart with values.
func chart(t *testing.T, namespace string, values ...string) (string, error) {
	t.Helper()
	args := []string{"template", "kmmd", "deploy/helm/kmmd", "--namespace", namespace, "--include-crds"}
	for _, v := range values {
		args = append(args, "--set-json", v)
	}
	return helm(t, cluster, args...)
}

// TestChartIsKustomize: both ways to install give the same objects, the
// namespace aside, which helm makes by itself or not at all.
func TestChartIsKustomize(t *testing.T) {
	const credentials = `agent.readHostPaths=[{"path":"/var/lib/kubelet/config.json","type":"File"}]`
	tests := []struct {
		name string
		overlay
		values []string
	}{
		{"plain", overlay{"deploy/kubernetes", nil}, nil},
		{"openshift", overlay{"deploy/openshift", nil}, []string{"openshift=true", credentials}},
		{"systemd", overlay{"deploy/kubelet-identity", nil}, []string{"agent.daemonSet=false"}},
		{"host network", overlay{"deploy/kubernetes", []string{"host-network"}}, []string{"agent.hostNetwork=true"}},
		{"require access", overlay{"deploy/kubernetes", []string{"require-access"}}, []string{"watcher.requireAccess=true"}},
		{"require access by the flag", overlay{"deploy/kubernetes", []string{"require-access"}}, []string{`watcher.extraArgs=["--require-access"]`}},
		{"credentials", overlay{"deploy/kubernetes", []string{"node-credentials"}}, []string{credentials}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			out, err := chart(t, "kmm-system", tt.values...)
			require.NoError(t, err)
			want, got := comparable(t, tt.kustomize(t)), comparable(t, out)
			require.Equal(t, sorted(want), sorted(got))
			for name := range want {
				assert.Equal(t, want[name], got[name], name)
			}
		})
	}
}

func sorted(m map[string]string) []string {
	var names []string
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// comparable gives each object as JSON, without what means the same either way.
func comparable(t *testing.T, manifests string) map[string]string {
	t.Helper()
	out := map[string]string{}
	for name, d := range documents(t, manifests) {
		if d["kind"] == "Namespace" {
			continue
		}
		if d["kind"] == "CustomResourceDefinition" {
			delete(d["metadata"].(map[string]any), "labels") // helm takes them as they are
		}
		data, err := json.MarshalIndent(alike("", d), "", " ")
		require.NoError(t, err)
		out[name] = string(data)
	}
	return out
}

// alike orders volumes and mounts, whose order means nothing, and folds the white
// space of CEL, for which kustomize has its own rules.
func alike(key string, value any) any {
	switch v := value.(type) {
	case map[string]any:
		for k := range v {
			v[k] = alike(k, v[k])
		}
	case []any:
		for i := range v {
			v[i] = alike("", v[i])
		}
		if key == "volumes" || key == "volumeMounts" {
			slices.SortFunc(v, func(a, b any) int { return cmp.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
		}
	case string:
		if strings.HasSuffix(strings.ToLower(key), "expression") {
			return strings.Join(strings.Fields(v), " ")
		}
	}
	return value
}

// TestChartValues: what values do, beyond what overlays have.
func TestChartValues(t *testing.T) {
	tests := []struct {
		name, value, workload string
		has                   []string
	}{
		{"images", `images={"kmmd":"r.example/k@sha256:` + strings.Repeat("a", 64) + `","watcher":"r.example/w:1","pullSecrets":["s"]}`, "DaemonSet kmmd",
			[]string{`"image":"r.example/k@sha256:`, `"imagePullSecrets":[{"name":"s"}]`}},
		{"resources", `agent.resources={"limits":{"memory":"1Gi"}}`, "DaemonSet kmmd", []string{`"resources":{"limits":{"memory":"1Gi"},"requests":{"cpu":"20m","memory":"64Mi"}}`}},
		{"nodes", `agent.nodeSelector={"a":"b"}`, "DaemonSet kmmd", []string{`"nodeSelector":{"a":"b"}`}},
		{"no priority", `watcher.priorityClassName=""`, "Deployment kmm-watcher", []string{`"containers"`}},
		{"replicas", `watcher.replicas=3`, "Deployment kmm-watcher", []string{`"replicas":3`}},
		{"HTTPS", `watcher.extraArgs=["--tls-cert-file=/a","--tls-key-file=/b"]`, "Deployment kmm-watcher",
			[]string{`{"path":"/livez","port":"http","scheme":"HTTPS"}`, `{"path":"/readyz","port":"http","scheme":"HTTPS"}`}},
		{"HTTPS, by a flag with its value", `watcher.extraArgs=["--require-access=true"]`, "Deployment kmm-watcher",
			[]string{`{"path":"/livez","port":"http","scheme":"HTTPS"}`, `{"path":"/readyz","port":"http","scheme":"HTTPS"}`}},
		{"a proxy for the agent", `agent.extraEnv=[{"name":"HTTPS_PROXY","value":"http://p:1"}]`, "DaemonSet kmmd",
			[]string{`"name":"NODE_NAME"`, `{"name":"HTTPS_PROXY","value":"http://p:1"}`}},
		{"a proxy for the watcher", `watcher.extraEnv=[{"name":"HTTPS_PROXY","valueFrom":{"secretKeyRef":{"name":"s","key":"k"}}}]`, "Deployment kmm-watcher",
			[]string{`"name":"POD_NAME"`, `{"name":"HTTPS_PROXY","valueFrom":{"secretKeyRef":{"key":"k","name":"s"}}}`}},
		{"metrics", `networkPolicy.metricsFrom=[{"namespaceSelector":{}}]`, "NetworkPolicy kmmd", []string{`"from":[{"namespaceSelector":{}}]`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			out, err := chart(t, "kmm-system", tt.value)
			require.NoError(t, err)
			data, err := json.Marshal(documents(t, out)[tt.workload])
			require.NoError(t, err)
			for _, word := range tt.has {
				assert.Contains(t, string(data), word)
			}
			cluster.KubectlInput(t, out, "apply", "--dry-run=server", "--server-side", "--force-conflicts", "-f", "-")
		})
	}
}

// TestChartFlags: kmm-watcher and kmmd take what the chart gives them.
func TestChartFlags(t *testing.T) {
	out, err := chart(t, "kmm-system", `agent.daemonSet=false`, `watcher={"extraArgs":["--workers=2"],"builds":{"builder":"buildah","builderImage":"b:1",
		"agentImage":"a:1","pullPolicy":"Never","deadline":"2h","keep":"1h30m","retry":"30s","userNamespaces":true}}`)
	require.NoError(t, err)
	args := template(t, documents(t, out)["Deployment kmm-watcher"]).Spec.Containers[0].Args
	assert.Subset(t, args, []string{"--agent-image=a:1", "--builder=buildah", "--builder-image=b:1", "--build-user-namespaces", "--workers=2"})
	said, err := exec.CommandContext(t.Context(), repository+"/.lab/bin/kmm-watcher", append(args, "--version")...).CombinedOutput()
	require.NoError(t, err, "%s", said)

	out, err = chart(t, "kmm-system", `agent.config="image_quota = \"5GiB\"\n[policy]\nnever_load = [\"floppy\"]"`)
	require.NoError(t, err)
	data, ok := documents(t, out)["ConfigMap kmmd"]["data"].(map[string]any)
	require.True(t, ok)
	text, ok := data["kmmd.toml"].(string)
	require.True(t, ok)
	assert.Contains(t, text, "[cluster]\nenabled = true\n")
	dir := t.TempDir()
	file := filepath.Join(dir, "kmmd.toml")
	require.NoError(t, os.WriteFile(file, []byte("state_dir = \""+dir+"\"\n"+text), 0o600))
	said, err = exec.CommandContext(t.Context(), repository+"/.lab/bin/kmmd", "--config", file, "image", "ls").CombinedOutput()
	require.NoError(t, err, "%s\n%s", said, text)
}

// TestChartRefuses: the schema names what is wrong.
func TestChartRefuses(t *testing.T) {
	tests := []struct{ name, value, says string }{
		{"an unknown key", `agent.privileged=true`, "privileged"},
		{"no image", `images.kmmd=""`, "/images/kmmd"},
		{"a policy of its own", `images.pullPolicy="Sometimes"`, "/images/pullPolicy"},
		{"a variable without a name", `agent.extraEnv=[{"value":"a"}]`, "/agent/extraEnv"},
		{"no replica", `watcher.replicas=0`, "/watcher/replicas"},
		{"a duration without a unit", `watcher.builds.keep="24"`, "/watcher/builds/keep"},
		{"an unknown builder", `watcher.builds.builder="docker"`, "/watcher/builds/builder"},
		{"what the chart sets itself", `agent.config="[cluster]\nenabled = false"`, "/agent/config"},
		{"a path out of bounds", `agent.readHostPaths=[{"path":"/a/../b"}]`, "/agent/readHostPaths"},
		{"no node at a time", `agent.updatesAtOnce="0%"`, "/agent/updatesAtOnce"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := chart(t, "kmm-system", tt.value)
			require.ErrorContains(t, err, tt.says)
		})
	}
}

// TestChartInstalled: helm installs, upgrades and takes away, in a namespace of any
// name; the definitions, and so all Modules, stay.
func TestChartInstalled(t *testing.T) {
	private := lab.New(t, lab.Options{})
	const namespace = "drivers"
	run := func(args ...string) {
		t.Helper()
		_, err := helm(t, private, append(args, "--namespace", namespace)...)
		require.NoError(t, err)
	}
	private.Kubectl(t, "create", "namespace", namespace)
	dir := t.TempDir()
	run("package", "deploy/helm/kmmd", "--destination", dir) // follows the chart's links
	packed, err := filepath.Glob(dir + "/kmmd-*.tgz")
	require.NoError(t, err)
	require.Len(t, packed, 1)
	run("install", "kmmd", packed[0])
	require.NoError(t, private.Served(t.Context(), "modules.kmm.sigs.x-k8s.io"))
	private.KubectlInput(t, plain, "apply", "-f", "-")
	policy := private.Kubectl(t, "get", "validatingadmissionpolicy", "kmmd-agent", "-o", "yaml")
	assert.Contains(t, policy, "system:serviceaccount:drivers:kmmd")
	assert.NotContains(t, policy, "kmm-system")
	assert.Contains(t, private.Kubectl(t, "get", "deployment", "kmm-watcher", "-n", namespace, "-o", "yaml"), "--agent-service-account=drivers/kmmd")

	run("upgrade", "kmmd", "deploy/helm/kmmd", "--set", "agent.hostNetwork=true")
	assert.Equal(t, "true", private.Kubectl(t, "get", "daemonset", "kmmd", "-n", namespace, "-o", "jsonpath={.spec.template.spec.hostNetwork}"))
	run("uninstall", "kmmd")
	assert.Empty(t, private.Kubectl(t, "get", "clusterroles,validatingadmissionpolicies", "-l", "app.kubernetes.io/part-of=kmmd", "-o", "name"))
	assert.Contains(t, private.Kubectl(t, "get", "modules", "-A", "-o", "name"), "module")
	readPages(t, private)
}
