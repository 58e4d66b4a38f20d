// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kmm-node/kmmd/test/cluster/lab"
)

func TestAccepted(t *testing.T) {
	tests := []struct {
		name  string
		edits []edit
	}{
		{"plain", nil},
		{"41 characters with dots", []edit{{"metadata", "name: " + strings.Repeat("a.b-", 8) + "ab"}}},
		{"a name that begins with a digit", []edit{{"metadata", "name: 3w-9xxx"}}},
		{"permissions", []edit{{"metadata", "annotations: {kmm.node.kubernetes.io/allow-in-use: network, kmm.node.kubernetes.io/before-unload: ' unbind,sriov-reset,', other: x}"}}},
		{"no moduleLoader", []edit{{"spec", "{moduleLoader: null, devicePlugin: {container: {image: 'a:1'}}}"}}},
		{"nothing", []edit{{"spec", "{moduleLoader: null}"}}},
		{"driver", []edit{{"spec", `dra: {driverName: d.example.com, container: {image: 'a:1'}, initContainer: {image: 'a:1'}, serviceAccountName: s,
			deviceClasses: [{name: d.example.com, selectors: [{cel: {expression: 'device.driver == "d"'}}], config: [{opaque: {driver: d, parameters: {a: [1, {b: c}]}}}]}]}`}}},
		{"plugin with all", []edit{{"spec", `devicePlugin: {automountServiceAccountToken: false, container: {image: img, imagePullPolicy: Always, command: [a], args: [b],
			env: [{name: A, value: a}, {name: A, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}], resources: {limits: {cpu: 1, memory: 1Gi}}, volumeMounts: [{name: v, mountPath: /v}]},
			volumes: [{name: a, hostPath: {path: /dev}}, {name: b, hostPath: {path: /var/lib/x, type: Directory}}, {name: c, hostPath: {path: //opt/./a..b}}, {name: d, secret: {secretName: s}}]}`}}},
		{"regexp", []edit{{"mapping", `regexp: '^(?i)\d+\.\d+.*(fc\d+|el9)\.(x86_64|aarch64)$'`}}},
		{"literal, and an empty regexp", []edit{{"mapping", "{literal: 6.1.0-1, regexp: ''}"}}},
		{"image by digest", []edit{{"mapping", "containerImage: 'reg:5000/a/img@sha256:" + strings.Repeat("0", 64) + "'"}}},
		{"image on the node", []edit{{"mapping", "containerImage: 'oci:/srv/images/a'"}}},
		{"archive on the node", []edit{{"mapping", "containerImage: 'oci-archive:/srv/a.tar'"}}},
		{"templates", []edit{{"mapping", "containerImage: 'reg/${MOD_NAMESPACE}/$MOD_NAME:${KERNEL_XYZ}-${SUFFIX:-x}$$'"}}},
		{"tag in a default", []edit{{"mapping", "containerImage: 'reg/img${TAG:-:latest}'"}}},
		{"digest in a default with a slash", []edit{{"mapping", "containerImage: '${IMG:-reg/img@sha256:0}'"}}},
		{"tag before a default with a slash", []edit{{"mapping", "containerImage: 'reg/img:1${KERNEL_X:-/}'"}}},
		{"the container's image", []edit{{"mapping", "containerImage: ''"}, {"container", "containerImage: 'a:1'"}}},
		{"removal switched off", []edit{{"container", "inTreeModulesToRemove: [a-b, c_d]"}, {"mapping", "inTreeModulesToRemove: []"}}},
		{"the old spelling", []edit{{"container", "inTreeModuleToRemove: a"}, {"mapping", "inTreeModuleToRemove: b"}}},
		{"loading order", []edit{{"modprobe", "{moduleName: my-mod, modulesLoadingOrder: [my_mod, a, b]}"}}},
		{"arguments", []edit{{"modprobe", "{args: {load: [-v, --force-vermagic], unload: [--remove]}, parameters: [a=1, 'b=\"c d\"', flag]}"}}},
		{"raw arguments", []edit{{"modprobe", "{moduleName: null, firmwarePath: /firmware, rawArgs: {load: [-f, -d, /srv, my-mod, a=1], unload: [-r, --dirname=/srv, my-mod]}}"}}},
		{"raw arguments and the default", []edit{{"modprobe", "{moduleName: '', dirName: /opt, rawArgs: {load: [a], unload: [-d, -v, a]}}"}}},
		{"raw arguments for unloading", []edit{{"modprobe", "{moduleName: null, rawArgs: {load: [a], unload: [-v, '', --quiet, -d, -f, a, force, --dirname=-f]}}"}}},
		{"dots in names of directories", []edit{{"modprobe", "{dirName: /opt/a..b, firmwarePath: ...}"}}},
		{"registries", []edit{{"container", "registryTLS: {insecure: true}"}, {"mapping", "registryTLS: {insecureSkipTLSVerify: true}"}}},
		{"build and sign", []edit{{"mapping", "{build: {dockerfileConfigMap: {name: d}, buildArgs: [{name: a, value: b}], secrets: [{name: s}], selector: {a: b}, kanikoParams: {tag: x}}, sign: {keySecret: {name: k}, certSecret: {name: c}, filesToSign: ['/opt/lib/modules/${KERNEL_FULL_VERSION}/*.ko']}}"}}},
		{"build of two levels", []edit{{"container", "build: {dockerfileConfigMap: {name: d}}"}, {"mapping", "build: {buildArgs: [{name: a}]}"}}},
		{"sign of two levels", []edit{{"container", "sign: {keySecret: {name: k}, filesToSign: [/opt/lib/a.ko]}"}, {"mapping", "sign: {certSecret: {name: c}, unsignedImage: 'a:1'}"}}},
		{"sign for all", []edit{{"container", signed}}},
		{"sign below another directory", []edit{{"modprobe", "dirName: /srv/"}, {"mapping", "sign: {keySecret: {name: k}, certSecret: {name: c}, filesToSign: [/srv/a.ko], unsignedImage: 'a:1'}"}}},
		{"version", []edit{{"container", "version: v1.2_3-rc.4"}}},
		{"in use", []edit{{"container", "{allowInUse: [network, network], beforeUnload: [unbind, sriov-reset]}"}}},
		{"tolerations", []edit{{"spec", "tolerations: [{operator: Exists}, {key: a.b/C_d, value: x, effect: NoSchedule}, {key: a, operator: Equal, value: '', effect: PreferNoSchedule}, {key: a, operator: Exists, effect: NoExecute, tolerationSeconds: 5}]"}}},
		{"rollout by number", []edit{{"spec", "rollout: {maxUnavailable: 5, pauseOnFailures: 3}"}}},
		{"rollout by percentage", []edit{{"spec", "rollout: {maxUnavailable: 100%}"}}},
		{"fields that we do not know", []edit{{"spec", "{moduleLoader: {container: {modprobe: {moduleName: a, cleanup: x}, kernelMappings: [{literal: a, containerImage: 'a:1', pull: {insecure: true}}]}}, additional: {a: b}}"}}},
	}
	r := modules(t)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := try(t.Context(), r, edited(t, tt.edits...))
			require.NoError(t, err)
		})
	}
}

// TestLarge: a Module that uses what the limits allow, and more than a person
// writes, costs no more than the API server spends on one object.
func TestLarge(t *testing.T) {
	m := parse(t, plain)
	many := func(n int, name string) []any {
		out := make([]any, n)
		for i := range out {
			out[i] = fmt.Sprintf("%s%d", name, i)
		}
		return out
	}
	mappings := make([]any, 128)
	for i := range mappings {
		mappings[i] = map[string]any{
			"regexp": "^" + strings.Repeat("[a-z]", 100), "containerImage": "reg/" + strings.Repeat("a", 500) + ":${KERNEL_FULL_VERSION}",
			"inTreeModulesToRemove": many(64, "a_module_with_a_longer_name_"),
			"sign":                  map[string]any{"filesToSign": many(32, "/opt/lib/modules/${KERNEL_FULL_VERSION}/extra/a_module_with_a_longer_name_")},
		}
	}
	c := object(t, m, "container")
	c["kernelMappings"] = mappings
	for name, value := range parse(t, signed) {
		c[name] = value
	}
	p := object(t, m, "modprobe")
	order := many(64, "a_module_with_a_longer_name_")
	p["moduleName"], p["modulesLoadingOrder"] = order[0], order
	_, err := try(t.Context(), modules(t), asObject(t, m))
	require.NoError(t, err)
}

// TestAsKMMWritesIt is a Module from a client in Go, which writes what is not
// there as null, "" or {}.
func TestAsKMMWritesIt(t *testing.T) {
	data, err := os.ReadFile("testdata/written-by-client.yaml")
	require.NoError(t, err)
	got, err := try(t.Context(), modules(t), asObject(t, parse(t, string(data))))
	require.NoError(t, err)
	c := object(t, got.Object, "container")
	assert.NotContains(t, c, "inTreeModulesToRemove", "null is absence")
	assert.NotContains(t, c, "build")
}

// TestKept has what must not get lost, or appear, on the way through the server.
func TestKept(t *testing.T) {
	got, err := try(t.Context(), modules(t), edited(t,
		edit{"container", "inTreeModulesToRemove: [a]"}, edit{"mapping", "{inTreeModulesToRemove: [], unknown: {a: b}}"}))
	require.NoError(t, err)
	mapping := object(t, got.Object, "mapping")
	assert.Equal(t, []any{}, mapping["inTreeModulesToRemove"], "an explicit [] is not absence")
	assert.NotContains(t, mapping, "unknown")
	assert.Equal(t, "/opt", object(t, got.Object, "modprobe")["dirName"])
}

// TestApply uses kubectl apply, which keeps a copy in an annotation.
func TestApply(t *testing.T) {
	data, err := os.ReadFile(annotatedExample)
	require.NoError(t, err)
	for name, document := range map[string]string{
		"as it is":    string(data),
		"with CRLF":   strings.ReplaceAll(string(data), "\n", "\r\n"),
		"as JSON":     jsonOf(t, string(data)),
		"minimal one": plain,
	} {
		t.Run(name, func(t *testing.T) {
			out := cluster.KubectlInput(t, document, "apply", "-f", "-")
			assert.Contains(t, out, "created")
			defer cluster.Kubectl(t, "delete", "modules", "--all")
			assert.Contains(t, cluster.KubectlInput(t, document, "apply", "-f", "-"), "unchanged")
		})
	}
}

func jsonOf(t *testing.T, document string) string {
	t.Helper()
	data, err := json.Marshal(parse(t, document))
	require.NoError(t, err)
	return string(data)
}

// TestVersionStays updates Modules, which a dry run of a creation can not show.
func TestVersionStays(t *testing.T) {
	tests := []struct{ name, before, after, says string }{
		{"added", "version: null", "version: '1'", "can not be added"},
		{"taken away", "version: '1'", "version: null", "can not be added"},
		{"emptied", "version: '1'", "version: ''", "can not be added"},
		{"changed", "version: '1'", "version: '2'", ""},
		{"still none", "version: null", "version: ''", ""},
	}
	r := modules(t).Namespace("default")
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m, err := r.Create(t.Context(), edited(t, edit{"container", tt.before}), metav1.CreateOptions{})
			require.NoError(t, err)
			defer cluster.Kubectl(t, "delete", "module", m.GetName())
			after := edited(t, edit{"container", tt.after})
			after.SetResourceVersion(m.GetResourceVersion())
			_, err = r.Update(t.Context(), after, metav1.UpdateOptions{})
			if tt.says == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, containerPath+".version: ")
			require.ErrorContains(t, err, tt.says)
		})
	}
}

// TestNameOfTheNamespace: a longer namespace leaves less for the name.
func TestNameOfTheNamespace(t *testing.T) {
	namespace := strings.Repeat("n", 31)
	cluster.Kubectl(t, "create", "namespace", namespace)
	defer cluster.Kubectl(t, "delete", "namespace", namespace, "--wait=false")
	for name, ok := range map[string]bool{strings.Repeat("m", 10): true, strings.Repeat("m", 11): false} {
		m := edited(t)
		m.SetNamespace(namespace)
		m.SetName(name)
		_, err := try(t.Context(), modules(t), m)
		assert.Equal(t, ok, err == nil, "%s: %v", name, err)
	}
}

func TestColumns(t *testing.T) {
	cluster.KubectlInput(t, plain, "apply", "-f", "-")
	defer cluster.Kubectl(t, "delete", "module", "m")
	cluster.Kubectl(t, "patch", "module", "m", "--subresource=status", "--type=merge", "-p", `{"status":{
		"moduleLoader":{"nodesMatchingSelectorNumber":3,"desiredNumber":2,"availableNumber":0},
		"conditions":[{"type":"Ready","status":"False","reason":"Waiting","message":"","lastTransitionTime":"2026-01-01T00:00:00Z"},
			{"type":"Degraded","status":"True","reason":"InitFailed","message":"","lastTransitionTime":"2026-01-01T00:00:00Z"}]}}`)
	wide := strings.Split(cluster.Kubectl(t, "get", "modules", "-o", "wide"), "\n")
	assert.Equal(t, []string{"NAME", "MODULE", "VERSION", "MATCHING", "DESIRED", "AVAILABLE", "READY", "DEGRADED", "AGE"}, strings.Fields(wide[0]))
	assert.Equal(t, []string{"m", "dummy", "3", "2", "0", "False", "InitFailed"}, strings.Fields(wide[1])[:7])
	narrow := strings.Fields(strings.Split(cluster.Kubectl(t, "get", "modules"), "\n")[0])
	assert.Equal(t, []string{"NAME", "MODULE", "MATCHING", "DESIRED", "AVAILABLE", "READY", "AGE"}, narrow)

	cluster.KubectlInput(t, "apiVersion: kmm.sigs.x-k8s.io/v1beta1\nkind: NodeModulesConfig\nmetadata: {name: columns}\n", "apply", "-f", "-")
	defer cluster.Kubectl(t, "delete", "nmc", "columns")
	nmc := strings.Fields(strings.Split(cluster.Kubectl(t, "get", "nmc", "-o", "wide"), "\n")[0])
	assert.Equal(t, []string{"NAME", "KERNEL", "SUMMARY", "SECUREBOOT", "LOCKDOWN", "AGENT", "AGE"}, nmc)
}

// TestExplain: our fields are documented in the cluster.
func TestExplain(t *testing.T) {
	for path, says := range map[string]string{
		"modules.spec.moduleLoader.container.modprobe.modulesLoadingOrder": "loads C, B, A",
		"modules.spec.rollout.maxUnavailable":                              "may be changing at a time",
		"nmc.status.bootID":                                                "boot_id",
	} {
		lab.Wait(t, path+" is documented", func() error { // some time after it is served
			out, err := cluster.Run(t.Context(), "", "explain", path)
			if err == nil && !strings.Contains(out, says) {
				err = errors.New(out)
			}
			return err
		})
	}
}
