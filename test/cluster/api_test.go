// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
)

const annotatedExample = "../../pkg/spec/testdata/annotated.yaml"

// plain is what the rows of the tables edit.
const plain = `
apiVersion: kmm.sigs.x-k8s.io/v1beta1
kind: Module
metadata: {name: m, namespace: default}
spec:
  selector: {}
  moduleLoader:
    container:
      modprobe: {moduleName: dummy}
      kernelMappings:
      - {regexp: ^.+$, containerImage: "reg/img:1"}
`

// edit is one row: an object of the plain Module, fields to set in it (or to take
// away, by null).
type edit struct{ at, set string }

// object finds a part of a Module by the last name of its path.
func object(t *testing.T, m map[string]any, at string) map[string]any {
	t.Helper()
	paths := map[string]string{
		"metadata":  "metadata",
		"spec":      "spec",
		"container": "spec.moduleLoader.container",
		"modprobe":  "spec.moduleLoader.container.modprobe",
		"mapping":   "spec.moduleLoader.container.kernelMappings",
	}
	require.Contains(t, paths, at)
	for _, name := range strings.Split(paths[at], ".") {
		next := m[name]
		if list, ok := next.([]any); ok {
			next = list[0]
		}
		require.IsType(t, m, next, name)
		m = next.(map[string]any)
	}
	return m
}

func parse(t *testing.T, document string) map[string]any {
	t.Helper()
	var m map[string]any
	require.NoError(t, yaml.Unmarshal([]byte(document), &m), document)
	return m
}

func edited(t *testing.T, edits ...edit) *unstructured.Unstructured {
	t.Helper()
	m := parse(t, plain)
	for _, e := range edits {
		o := object(t, m, e.at)
		for name, value := range parse(t, e.set) {
			o[name] = value
			if value == nil {
				delete(o, name)
			}
		}
	}
	return asObject(t, m)
}

// asObject turns the numbers of YAML into those of JSON.
func asObject(t *testing.T, m map[string]any) *unstructured.Unstructured {
	t.Helper()
	data, err := json.Marshal(m)
	require.NoError(t, err)
	u := &unstructured.Unstructured{}
	require.NoError(t, u.UnmarshalJSON(data))
	return u
}

func modules(t *testing.T) dynamic.NamespaceableResourceInterface {
	t.Helper()
	client, err := dynamic.NewForConfig(cluster.Config())
	require.NoError(t, err)
	return client.Resource(v1beta1.GroupVersion.WithResource("modules"))
}

// try has the API server say what it would make of a Module.
func try(ctx context.Context, r dynamic.NamespaceableResourceInterface, m *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	return r.Namespace(m.GetNamespace()).Create(ctx, m, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
}

const (
	containerPath = "spec.moduleLoader.container"
	modprobePath  = containerPath + ".modprobe"
	mappingPath   = containerPath + ".kernelMappings[0]"
)

const signed = `sign: {keySecret: {name: k}, certSecret: {name: c}, filesToSign: [/opt/lib/a.ko], unsignedImage: "a:1"}`

func TestRefused(t *testing.T) {
	tests := []struct {
		name, at, set string
		field, says   string
	}{
		{"long name", "metadata", "name: " + strings.Repeat("x", 41), "metadata.name", "41 characters together"},
		{"long name and namespace", "metadata", "name: " + strings.Repeat("x", 35), "metadata.name", "have 42 characters together"},
		{"capital letter", "metadata", "name: Mine", "metadata.name", "lowercase"},
		{"misspelt permission", "metadata", "annotations: {kmm.node.kubernetes.io/allow-in-use: net}", "kmm.node.kubernetes.io/allow-in-use", "network"},
		{"misspelt action", "metadata", "annotations: {kmm.node.kubernetes.io/before-unload: 'unbind, sriov'}", "kmm.node.kubernetes.io/before-unload", "sriov-reset"},

		{"no selector", "spec", "selector: null", "spec.selector", "Required"},

		{"no mapping", "container", "kernelMappings: []", containerPath + ".kernelMappings", "at least 1"},
		{"no mappings", "container", "kernelMappings: null", containerPath + ".kernelMappings", "Required"},
		{"literal and regexp", "mapping", "literal: '6.1'", mappingPath + ".regexp", "not both"},
		{"neither", "mapping", "regexp: null", mappingPath + ".literal", "literal or a regexp"},
		{"both empty", "mapping", "regexp: ''", mappingPath + ".literal", "literal or a regexp"},
		{"bad regexp", "mapping", "regexp: '^(.+$'", mappingPath + ".regexp", "missing closing )"},
		{"regexp of another language", "mapping", "regexp: '(?!rt)'", mappingPath + ".regexp", "invalid or unsupported Perl syntax"},

		{"no image", "mapping", "containerImage: null", containerPath + ".kernelMappings", "needs the one of the container"},
		{"empty image", "mapping", "containerImage: ''", containerPath + ".kernelMappings", "needs the one of the container"},
		{"image without tag", "mapping", "containerImage: 'localhost:5000/img'", mappingPath + ".containerImage", "needs a tag"},
		{"template without tag", "mapping", "containerImage: 'reg:5000/${KERNEL_XYZ}/$MOD_NAME'", mappingPath + ".containerImage", "needs a tag"},
		{"default without tag", "mapping", "containerImage: 'reg/img${KERNEL_X:-1}'", mappingPath + ".containerImage", "needs a tag"},
		{"missing brace", "mapping", "containerImage: 'reg/img:${KERNEL_X'", mappingPath + ".containerImage", `closing "}"`},
		{"the container's image without tag", "container", "containerImage: reg/img", containerPath + ".containerImage", "needs a tag"},
		{"pull policy", "container", "imagePullPolicy: Sometimes", containerPath + ".imagePullPolicy", "Sometimes"},

		{"singular and plural", "container", "{inTreeModuleToRemove: a, inTreeModulesToRemove: [a]}", containerPath + ".inTreeModuleToRemove", "use the plural"},
		{"singular here, plural there", "container", "{inTreeModuleToRemove: a, kernelMappings: [{literal: a, containerImage: 'a:1', inTreeModulesToRemove: []}]}", containerPath + ".inTreeModuleToRemove", "use the plural"},
		{"one mapping each", "container", "{kernelMappings: [{literal: a, containerImage: 'a:1', inTreeModulesToRemove: [b]}, {literal: b, containerImage: 'a:1', inTreeModuleToRemove: a}]}", containerPath + ".inTreeModuleToRemove", "use the plural"},
		{"module to remove by file", "container", "inTreeModulesToRemove: [dummy, dummy.ko]", containerPath + ".inTreeModulesToRemove[1]", "as lsmod shows it"},
		{"module to remove without name", "mapping", "inTreeModulesToRemove: ['']", mappingPath + ".inTreeModulesToRemove[0]", "at least 1 char"},
		{"one module to remove by file", "mapping", "inTreeModuleToRemove: dummy.ko", mappingPath + ".inTreeModuleToRemove", "as lsmod shows it"},

		{"no modprobe", "container", "modprobe: null", modprobePath, "Required"},
		{"no module name", "modprobe", "moduleName: null", modprobePath + ".moduleName", "is required"},
		{"empty module name", "modprobe", "moduleName: ''", modprobePath + ".moduleName", "is required"},
		{"module name with path", "modprobe", "moduleName: /dummy.ko", modprobePath + ".moduleName", "as lsmod shows it"},
		{"long module name", "modprobe", "moduleName: " + strings.Repeat("x", 56), modprobePath + ".moduleName", "at most 55"},
		{"dirName out of the image", "modprobe", "dirName: /opt/../..", modprobePath + ".dirName", `".."`},
		{"firmware out of the image", "modprobe", "firmwarePath: ../firmware", modprobePath + ".firmwarePath", `".."`},
		{"parameter with line break", "modprobe", `parameters: [a=1, "b=1\n2"]`, modprobePath + ".parameters[1]", "line break"},
		{"empty parameter", "modprobe", `parameters: ['']`, modprobePath + ".parameters[0]", "at least 1 char"},

		{"raw arguments and name", "modprobe", "rawArgs: {load: [dummy], unload: [dummy]}", modprobePath + ".moduleName", "beside rawArgs"},
		{"raw arguments and parameters", "modprobe", "{moduleName: null, parameters: [a=1], rawArgs: {load: [dummy], unload: [dummy]}}", modprobePath + ".rawArgs", "beside args, parameters"},
		{"raw arguments and dirName", "modprobe", "{moduleName: null, dirName: /srv, rawArgs: {load: [dummy], unload: [dummy]}}", modprobePath + ".rawArgs", "beside args, parameters"},
		{"raw arguments and order", "modprobe", "{moduleName: null, modulesLoadingOrder: [a, b], rawArgs: {load: [dummy], unload: [dummy]}}", modprobePath + ".rawArgs", "beside args, parameters"},
		{"raw arguments for loading only", "modprobe", "{moduleName: null, rawArgs: {load: [dummy]}}", modprobePath + ".rawArgs", "both load and unload"},
		{"raw arguments for unloading only", "modprobe", "{moduleName: null, rawArgs: {unload: [dummy]}}", modprobePath + ".rawArgs", "both load and unload"},
		{"raw arguments without module", "modprobe", "{moduleName: null, rawArgs: {load: [-v, -d, dummy], unload: [dummy]}}", modprobePath + ".rawArgs.load", "names a module"},
		{"raw arguments with a path", "modprobe", "{moduleName: null, rawArgs: {load: [/opt/dummy.ko], unload: [dummy]}}", modprobePath + ".rawArgs.load", "names a module"},
		{"unknown raw argument", "modprobe", "{moduleName: null, rawArgs: {load: [--set-version=1, dummy], unload: [dummy]}}", modprobePath + ".rawArgs.load", "modprobe's options"},
		{"unknown raw argument for unloading", "modprobe", "{moduleName: null, rawArgs: {load: [dummy], unload: [dummy, --wait=1]}}", modprobePath + ".rawArgs.unload", "modprobe's options"},
		{"forced unload in raw arguments", "modprobe", "{moduleName: null, rawArgs: {load: [-f, dummy], unload: [-r, -f, dummy]}}", modprobePath + ".rawArgs.unload", "never done"},
		{"forced unload at last", "modprobe", "{moduleName: null, rawArgs: {load: [dummy], unload: [dummy, --force-vermagic]}}", modprobePath + ".rawArgs.unload", "never done"},
		{"forced unload at first", "modprobe", "{moduleName: null, rawArgs: {load: [dummy], unload: [--force, dummy]}}", modprobePath + ".rawArgs.unload", "never done"},
		{"unknown argument", "modprobe", "args: {load: [-v, --show-depends]}", modprobePath + ".args.load", "no modprobe runs"},
		{"no argument", "modprobe", "args: {load: []}", modprobePath + ".args.load", "at least 1"},
		{"argument with a line break", "modprobe", `args: {load: ["-v\n"]}`, modprobePath + ".args.load[0]", "line break"},
		{"raw argument with a line break", "modprobe", `{moduleName: null, rawArgs: {load: [a], unload: ["a\nb"]}}`, modprobePath + ".rawArgs.unload[0]", "line break"},
		{"module among the arguments", "modprobe", "args: {load: [dummy]}", modprobePath + ".args.load", "no modprobe runs"},
		{"forced unload", "modprobe", "args: {unload: [-f]}", modprobePath + ".args.unload", "never done"},

		{"order of one", "modprobe", "modulesLoadingOrder: [dummy]", modprobePath + ".modulesLoadingOrder", "at least 2"},
		{"order of another", "modprobe", "modulesLoadingOrder: [a, dummy]", modprobePath + ".modulesLoadingOrder", "begin with moduleName"},
		{"order with a module twice", "modprobe", "modulesLoadingOrder: [dummy, a-b, a_b]", modprobePath + ".modulesLoadingOrder", "twice"},
		{"order with a file", "modprobe", "modulesLoadingOrder: [dummy, a.ko]", modprobePath + ".modulesLoadingOrder[1]", "as lsmod shows it"},

		{"build without Dockerfile", "mapping", "build: {secrets: [{name: s}]}", containerPath + ".build.dockerfileConfigMap", "in the mapping or in the container"},
		{"build with nameless Dockerfile", "container", "build: {dockerfileConfigMap: {}}", containerPath + ".build.dockerfileConfigMap", "in the mapping or in the container"},
		{"sign without key", "mapping", "sign: {certSecret: {name: c}, filesToSign: [/opt/lib/a.ko], unsignedImage: 'a:1'}", containerPath + ".sign.keySecret", "needs keySecret"},
		{"sign without certificate", "container", "sign: {keySecret: {name: k}, filesToSign: [/opt/lib/a.ko], unsignedImage: 'a:1'}", containerPath + ".sign.certSecret", "needs certSecret"},
		{"sign without files", "mapping", "sign: {keySecret: {name: k}, certSecret: {name: c}, unsignedImage: 'a:1'}", containerPath + ".sign.filesToSign", "needs filesToSign"},
		{"sign without image", "mapping", "sign: {keySecret: {name: k}, certSecret: {name: c}, filesToSign: [/opt/lib/a.ko]}", containerPath + ".sign.unsignedImage", "where nothing is built"},
		{"file elsewhere", "container", "sign: {keySecret: {name: k}, certSecret: {name: c}, filesToSign: [/optional/a.ko], unsignedImage: 'a:1'}", containerPath + ".sign.filesToSign", "below dirName"},
		{"file of a mapping elsewhere", "mapping", "sign: {keySecret: {name: k}, certSecret: {name: c}, filesToSign: [/srv/a.ko], unsignedImage: 'a:1'}", containerPath + ".kernelMappings", "below dirName"},
		{"file below the default", "container", "{modprobe: {moduleName: a, dirName: /srv}, " + signed + "}", containerPath + ".sign.filesToSign", "below dirName"},
		{"file out of dirName", "mapping", "sign: {keySecret: {name: k}, certSecret: {name: c}, filesToSign: [/opt/../a.ko], unsignedImage: 'a:1'}", mappingPath + ".sign.filesToSign[0]", `".."`},

		{"version that is no label", "container", "version: 1.0+2", containerPath + ".version", "value of a label"},
		{"long version", "container", "version: v" + strings.Repeat("1", 63), containerPath + ".version", "63"},
		{"misspelt use", "container", "allowInUse: [net]", containerPath + ".allowInUse[0]", "network"},
		{"misspelt preparation", "container", "beforeUnload: [sriov]", containerPath + ".beforeUnload[0]", "sriov-reset"},

		{"plugin and driver", "spec", "{devicePlugin: {container: {image: 'a:1'}}, dra: {driverName: d, container: {image: 'a:1'}}}", "spec.dra", "not both"},
		{"plugin without image", "spec", "devicePlugin: {container: {}}", "spec.devicePlugin.container.image", "Required"},
		{"plugin's pull policy", "spec", "devicePlugin: {container: {image: 'a:1', imagePullPolicy: No}}", "spec.devicePlugin.container.imagePullPolicy", "Never"},
		{"host path", "spec", "devicePlugin: {container: {image: 'a:1'}, volumes: [{name: v, hostPath: {path: /etc}}]}", "spec.devicePlugin.volumes[0].hostPath.path", "/dev, /sys"},
		{"host path that begins alike", "spec", "devicePlugin: {container: {image: 'a:1'}, volumes: [{name: v, hostPath: {path: /device}}]}", "spec.devicePlugin.volumes[0].hostPath.path", "/dev, /sys"},
		{"host path with dots", "spec", "dra: {driverName: d, container: {image: 'a:1'}, volumes: [{name: w, emptyDir: {}}, {name: v, hostPath: {path: /dev/../etc}}]}", "spec.dra.volumes[1].hostPath.path", "/dev, /sys"},
		{"memory to the power of a fraction", "spec", "devicePlugin: {container: {image: 'a:1', resources: {limits: {memory: '1e1.5'}}}}", "spec.devicePlugin.container.resources.limits.memory", "should match"},
		{"memory beyond all exponents", "spec", "devicePlugin: {container: {image: 'a:1', resources: {requests: {memory: '1e99999999999999999999'}}}}", "spec.devicePlugin.container.resources.requests.memory", "should match"},
		{"size to the power of a fraction", "spec", "devicePlugin: {container: {image: 'a:1'}, volumes: [{name: v, emptyDir: {sizeLimit: '1e1.5'}}]}", "spec.devicePlugin.volumes[0].emptyDir.sizeLimit", "should match"},
		{"divisor to the power of a fraction", "spec", "devicePlugin: {container: {image: 'a:1', env: [{name: a, valueFrom: {resourceFieldRef: {resource: limits.cpu, divisor: '1e1.5'}}}]}}", "spec.devicePlugin.container.env[0].valueFrom.resourceFieldRef.divisor", "should match"},
		{"mode that is too large", "spec", "devicePlugin: {container: {image: 'a:1'}, volumes: [{name: v, secret: {secretName: a, defaultMode: 2147483648}}]}", "", "integer with format int32 in spec.devicePlugin.volumes[0].secret.defaultMode"},
		{"driver without name", "spec", "dra: {container: {image: 'a:1'}}", "spec.dra.driverName", "Required"},
		{"driver with empty name", "spec", "dra: {driverName: '', container: {image: 'a:1'}}", "spec.dra.driverName", "at least 1"},
		{"driver with bad name", "spec", "dra: {driverName: A_b, container: {image: 'a:1'}}", "spec.dra.driverName", "a-z0-9"},
		{"class without name", "spec", "dra: {driverName: d, container: {image: 'a:1'}, deviceClasses: [{}]}", "spec.dra.deviceClasses[0].name", "Required"},
		{"class with bad name", "spec", "dra: {driverName: d, container: {image: 'a:1'}, deviceClasses: [{name: A}]}", "spec.dra.deviceClasses[0].name", "a-z0-9"},
		{"class twice", "spec", "dra: {driverName: d, container: {image: 'a:1'}, deviceClasses: [{name: a}, {name: a}]}", "spec.dra.deviceClasses[1]", "Duplicate"},

		{"toleration of no taint", "spec", "tolerations: [{key: 'a b'}]", "spec.tolerations[0].key", "key of a taint"},
		{"toleration of a long name", "spec", "tolerations: [{key: " + strings.Repeat("x", 64) + "}]", "spec.tolerations[0].key", "key of a taint"},
		{"toleration of a long prefix", "spec", "tolerations: [{key: " + strings.Repeat("x", 254) + "/a}]", "spec.tolerations[0].key", "key of a taint"},
		{"toleration by another operator", "spec", "tolerations: [{key: a, operator: In}]", "spec.tolerations[0].operator", "Equal or Exists"},
		{"toleration without key", "spec", "tolerations: [{operator: Equal, value: a}]", "spec.tolerations[0].operator", "has to be Exists"},
		{"toleration of all values but one", "spec", "tolerations: [{key: a, operator: Exists, value: a}]", "spec.tolerations[0].value", "has to be empty"},
		{"toleration of no value", "spec", "tolerations: [{key: a, value: 'a b'}]", "spec.tolerations[0].value", "value of a taint"},
		{"toleration of no effect", "spec", "tolerations: [{key: a, effect: NoRun}]", "spec.tolerations[0].effect", "NoSchedule"},
		{"toleration for a while", "spec", "tolerations: [{key: a, tolerationSeconds: 5, effect: NoSchedule}]", "spec.tolerations[0].effect", "NoExecute"},

		{"no node may change", "spec", "rollout: {maxUnavailable: 0}", "spec.rollout.maxUnavailable", "from 1 on"},
		{"no per cent may change", "spec", "rollout: {maxUnavailable: 0%}", "spec.rollout.maxUnavailable", "from 1 on"},
		{"too much may change", "spec", "rollout: {maxUnavailable: 101%}", "spec.rollout.maxUnavailable", "from 1 on"},
		{"a word may change", "spec", "rollout: {maxUnavailable: all}", "spec.rollout.maxUnavailable", "from 1 on"},
		{"more than a number can say may change", "spec", "rollout: {maxUnavailable: 2147483648}", "spec.rollout.maxUnavailable", "from 1 on"},
		{"pause after nothing", "spec", "rollout: {pauseOnFailures: 0}", "spec.rollout.pauseOnFailures", "greater than or equal to 1"},
		{"pause after more than a number can say", "spec", "rollout: {pauseOnFailures: 2147483648}", "", "integer with format int32 in spec.rollout.pauseOnFailures"},
	}
	policiesKnown(t)
	r := modules(t)
	var said strings.Builder
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := try(t.Context(), r, edited(t, edit{tt.at, tt.set}))
			require.Error(t, err)
			said.WriteString(err.Error())
			assert.True(t, apierrors.IsInvalid(err) || apierrors.IsForbidden(err), "%v", err)
			assert.Contains(t, err.Error(), tt.field+":")
			assert.Contains(t, err.Error(), tt.says)
		})
	}
	t.Run("every rule has a row", func(t *testing.T) {
		data, err := os.ReadFile("../../deploy/crd/kmm.sigs.x-k8s.io_modules.yaml")
		require.NoError(t, err)
		messages := ruleMessages(parse(t, string(data)))
		assert.Greater(t, len(messages), 40)
		var unsaid []string
		for _, message := range messages {
			if !strings.Contains(said.String(), message) && !strings.Contains(message, "delete the Module and create it again") { // TestVersionStays
				unsaid = append(unsaid, message)
			}
		}
		assert.Empty(t, unsaid, "no row makes the server say this")
	})
}

// ruleMessages are the messages of all CEL rules below a node of a schema.
func ruleMessages(node any) []string {
	var out []string
	switch node := node.(type) {
	case []any:
		for _, n := range node {
			out = append(out, ruleMessages(n)...)
		}
	case map[string]any:
		if node["rule"] != nil && node["message"] != nil {
			return []string{node["message"].(string)}
		}
		for _, n := range node {
			out = append(out, ruleMessages(n)...)
		}
	}
	return out
}
