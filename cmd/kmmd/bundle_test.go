// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/record"

	"github.com/kmm-node/kmmd/pkg/bundle"
	"github.com/kmm-node/kmmd/pkg/source/file"
)

// marker is in every secret that the tests plant.
const marker = "Tops3cret"

// unpack gives the files of a bundle, without its directory.
func unpack(t *testing.T, data []byte) map[string]string {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(data))
	require.NoError(t, err)
	out := map[string]string{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		require.NoError(t, err)
		body, err := io.ReadAll(r)
		require.NoError(t, err)
		_, name, _ := strings.Cut(h.Name, "/")
		out[name] = string(body)
	}
}

// secretModule has a secret in each place that may have one.
const secretModule = `apiVersion: kmm.sigs.x-k8s.io/v1beta1
kind: Module
metadata:
  name: nic
  annotations:
    kubectl.kubernetes.io/last-applied-configuration: '{"value":"Tops3cret-annotation"}'
spec:
  moduleLoader:
    container:
      modprobe: {moduleName: nic, parameters: [wifi_password=Tops3cret-parameter]}
      build:
        buildArgs: [{name: LICENCE, value: Tops3cret-build}]
        dockerfileConfigMap: {name: dockerfile}
      kernelMappings: [{regexp: .+, containerImage: "registry.example/nic:1"}]
  imageRepoSecret: {name: pull-secret}
  devicePlugin:
    container:
      image: registry.example/plugin:1
      env: [{name: PLUGIN_KEY, value: Tops3cret-plugin}]
      args: [--token, Tops3cret-arg, --password=Tops3cret-arg]
---
apiVersion: v1
kind: Secret
metadata: {name: pull-secret}
stringData: {.dockerconfigjson: '{"auths":{"r":{"password":"Tops3cret-secret"}}}'}
`

// plant makes a machine with secrets wherever kmmd or the runtimes look.
func plant(t *testing.T) (dir, config string) {
	t.Helper()
	dir, config = root(t)
	auth := base64.StdEncoding.EncodeToString([]byte("user:" + marker + "-pull"))
	key := "-----BEGIN PRIVATE KEY-----\n" + marker + "+key\n-----END PRIVATE KEY-----\n"
	for path, content := range map[string]string{
		"modules.d/nic.yaml":                            secretModule,
		"modules.d/broken.yaml":                         "kind: [\npassword: " + marker + "-broken\n",
		"modules.d/number.yaml":                         strings.Replace(secretModule, marker+"-build", "1234567890123", 1),
		"modules.d/argument.txt":                        marker + "-text",
		"etc/containerd/certs.d/r.example/hosts.toml":   "[host.\"https://u:" + marker + "-url@mirror.example\".header]\nx-any = [\"" + marker + "-header\"]\nauthorization = \"Basic " + auth + "\"\n",
		"etc/containerd/certs.d/bad.example/hosts.toml": "header = [\n\"" + marker + "-badhosts\"",
		"etc/containers/registries.conf":                "unqualified-search-registries = [\"r.example\"]\n[[registry]]\nlocation = \"https://u:" + marker + "-conf@r.example\"\n",
		"var/lib/kubelet/config.json":                   `{"auths":{"r.example":{"auth":"` + auth + `"},"s.example":{"identitytoken":"` + marker + `-identity"}}}`,
		"root/.docker/config.json":                      `{"auths":{"r.example":{"password":"` + marker + `-malformed"}`,
		"run/lock":                                      "1\n",
		"proc/modules":                                  "nic 16384 2 nic_core,[permanent], Live 0xffffffffc0a01000 (OE)\n",
		"run/symbols.json":                              `{"tables":"` + marker + `-address"}`,
		"run/ledger.json":                               string(record.Seal([]byte(`{"bootID":"x","modules":{"old":{"owners":["a/b"],"file":{"name":"old","path":"/none/old.ko"}}},"failures":{"a/b":{"message":"said ` + marker + `-pull, ` + marker + `-header, ` + marker + `-identity and ` + marker + `-malformed"}}}`))),
		"state/cluster.json":                            `{"node":"n","spec":{"token":"` + marker + `-order"}}`,
		"proc/cmdline":                                  "quiet netroot=iscsi:user:" + marker + "-iscsi@10.0.0.1 rd.iscsi.password=" + marker + "-cmdline\n",
		"dev/kmsg":                                      "4,1,1000000,-;nic: bad key " + marker + "-pull of " + marker + "-proxy\n",
		"etc/modprobe.d/nic.conf":                       "options nic wifi_password=" + marker + "-options\n" + key,
	} {
		write(t, filepath.Join(dir, path), content)
	}
	status := fullStatus()
	status.Modules[0].Message = "pull https://u:" + marker + "-status@r.example/v2/?sig=" + marker + "-query: Authorization: Bearer " + marker + "-bearer"
	status.Invalid = []string{"number.yaml:14: must be a string, is 1234567890123"}
	require.NoError(t, (&file.Source{Status: filepath.Join(dir, "run/status.json")}).Report(t.Context(), status))
	data, err := os.ReadFile(config)
	require.NoError(t, err)
	write(t, config, "# password = "+marker+"-comment\nlisten = '127.0.0.1:1'\n"+string(data)+"[cluster]\nkubeconfig = 'https://u:"+marker+"-kube@x'\n")
	t.Setenv("HTTPS_PROXY", "http://proxy:"+marker+"-proxy@proxy.example:3128")
	t.Setenv("SOME_PASSWORD", marker+"-environment")
	t.Setenv("NO_PROXY", "x,"+marker+"-environment")
	return dir, config
}

func TestBundleHasNoSecret(t *testing.T) {
	dir, config := plant(t)
	to := filepath.Join(dir, "out.tar.gz")
	out, err := kmmd(t, "bundle", "--config", config, "--to", to)
	require.NoError(t, err)
	assert.NotContains(t, out, marker)
	info, err := os.Stat(to)
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o600), info.Mode())
	data, err := os.ReadFile(to)
	require.NoError(t, err)
	files := unpack(t, data)
	for name, content := range files {
		for _, secret := range []string{marker, base64.StdEncoding.EncodeToString([]byte("user:" + marker + "-pull")), "1234567890123", "ffffffffc0a01000"} {
			assert.NotContains(t, content, secret, name)
		}
	}
	// And yet it has what it is for.
	for name, words := range map[string]string{
		"documents/nic.yaml.json":          "registry.example/nic:1",
		"documents/broken.yaml.json.error": "is left out",
		"status.json":                      "rolledBack",
		"registries/containerd/certs.d/r.example/hosts.toml.json": "mirror.example",
		"registries/credentials.txt":                              "for s.example",
		"ledger.json":                                             "/none/old.ko",
		"modules/old.json":                                        "/none/old.ko",
		"kernel/log.txt":                                          "nic: bad key",
		"kernel/proc/cmdline":                                     "quiet",
		"kernel/proc/modules":                                     "nic 16384 2 nic_core,[permanent], Live 0x0000000000000000 (OE)\n",
		"kernel/etc/modprobe.d/nic.conf":                          "options nic",
		"config/effective.toml":                                   "load_timeout = '2m'",
		"config/environment.txt":                                  "proxy.example:3128",
		"version.txt":                                             "kmmd ",
		"daemon/livez.txt.error":                                  "connection refused",
		"store.json.error":                                        "no such file",
		"contents.txt":                                            "documents/nic.yaml.json",
	} {
		assert.Contains(t, files[name], words, name)
	}
	assert.Contains(t, files["documents/nic.yaml.json"], bundle.Redacted)
}

// TestBundleOfNothing: a machine with no configuration, no kmmd and no kernel
// that can be read gives a bundle that says so.
func TestBundleOfNothing(t *testing.T) {
	dir := t.TempDir()
	config := write(t, filepath.Join(dir, "kmmd.toml"), fmt.Sprintf("host_root = '%[1]s'\nmodules_dir = '%[1]s/m'\nstate_dir = '%[1]s/s'\nrun_dir = '%[1]s/r'\nlisten = ''\n", dir))
	out, err := kmmd(t, "bundle", "--config", config, "--to", "-")
	require.NoError(t, err)
	files := unpack(t, []byte(out))
	for _, name := range []string{"status.txt", "status.json", "plan.txt", "ledger.json", "documents", "kernel/facts.json", "kernel/log.txt", "daemon/livez.txt"} {
		assert.NotEmpty(t, files[name+".error"], name)
	}
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	assert.Len(t, entries, 1, "nothing was made")
}

// TestBundleWithoutConfiguration: one that can not be used is a part that says so.
func TestBundleWithoutConfiguration(t *testing.T) {
	dir := t.TempDir()
	config := write(t, filepath.Join(dir, "kmmd.toml"), "listen_on = ''\n")
	to := filepath.Join(dir, "b.tar.gz")
	out, err := kmmd(t, "bundle", "--config", config, "--to", to, "-o", "json")
	require.NoError(t, err)
	var said struct {
		File  string
		Parts []bundle.Entry
	}
	require.NoError(t, json.Unmarshal([]byte(out), &said))
	assert.Equal(t, to, said.File)
	data, err := os.ReadFile(to)
	require.NoError(t, err)
	files := unpack(t, data)
	assert.Contains(t, files["status.txt.error"], "listen_on: unknown key")
	assert.Contains(t, files["config/kmmd.toml.json"], "listen_on")
	assert.Contains(t, files["config/effective.toml.error"], "these are the defaults")

	_, err = kmmd(t, "bundle", "--config", config, "--to", to)
	assert.ErrorContains(t, err, "there is such a file")
	require.NoError(t, os.Symlink(filepath.Join(dir, "elsewhere"), filepath.Join(dir, "link")))
	_, err = kmmd(t, "bundle", "--config", config, "--to", filepath.Join(dir, "link"))
	assert.Equal(t, 1, exitCode(err))
	assert.NoFileExists(t, filepath.Join(dir, "elsewhere"))
}

func TestPlanOffline(t *testing.T) {
	dir, config := root(t)
	write(t, filepath.Join(dir, "modules.d/nic.yaml"), secretModule)
	out, err := kmmd(t, "plan", "--offline", "--config", config)
	assert.Equal(t, 1, exitCode(err))
	assert.Contains(t, out, "registry.example/nic:1")
	assert.Contains(t, out, "there is no store yet")
	assert.NoDirExists(t, filepath.Join(dir, "state"))
}
