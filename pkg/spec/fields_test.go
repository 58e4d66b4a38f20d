// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// samples has for each field of spec, by its path, what is laid over base to set it:
// null takes a field away.
var samples = map[string]string{
	"devicePlugin":                  `{"devicePlugin": {"container": {"image": "a:1"}}}`,
	"dra":                           `{"dra": {"driverName": "d", "container": {"image": "a:1"}}}`,
	"selector":                      `{"selector": {"a": "b"}}`,
	"tolerations":                   `{"tolerations": [{"operator": "Exists"}]}`,
	"imageRepoSecret":               `{"imageRepoSecret": {"name": "s"}}`,
	"imageRebuildTriggerGeneration": `{"imageRebuildTriggerGeneration": 1}`,
	"rollout":                       `{"rollout": {"maxUnavailable": "10%", "pauseOnFailures": 1}}`,

	"moduleLoader.serviceAccountName":              `{"moduleLoader": {"serviceAccountName": "x"}}`,
	"moduleLoader.container.containerImage":        container(`"containerImage": "other:1", "kernelMappings": [{"containerImage": null}]`),
	"moduleLoader.container.imagePullPolicy":       container(`"imagePullPolicy": "Always"`),
	"moduleLoader.container.version":               container(`"version": "2"`),
	"moduleLoader.container.inTreeModuleToRemove":  container(`"inTreeModuleToRemove": "old"`),
	"moduleLoader.container.inTreeModulesToRemove": container(`"inTreeModulesToRemove": ["old"]`),
	"moduleLoader.container.build":                 container(`"build": {"dockerfileConfigMap": {"name": "x"}}`),
	"moduleLoader.container.sign":                  container(`"sign": {"keySecret": {"name": "x"}, "certSecret": {"name": "x"}}`),
	"moduleLoader.container.allowInUse":            container(`"allowInUse": ["network"]`),
	"moduleLoader.container.beforeUnload":          container(`"beforeUnload": ["unbind"]`),

	"moduleLoader.container.registryTLS.insecure":              container(`"registryTLS": {"insecure": true}`),
	"moduleLoader.container.registryTLS.insecureSkipTLSVerify": container(`"registryTLS": {"insecureSkipTLSVerify": true}`),

	"moduleLoader.container.modprobe.moduleName":          modprobe(`"moduleName": "other"`),
	"moduleLoader.container.modprobe.dirName":             modprobe(`"dirName": "/elsewhere"`),
	"moduleLoader.container.modprobe.firmwarePath":        modprobe(`"firmwarePath": "/firmware"`),
	"moduleLoader.container.modprobe.parameters":          modprobe(`"parameters": ["a=1"]`),
	"moduleLoader.container.modprobe.modulesLoadingOrder": modprobe(`"modulesLoadingOrder": ["mod", "lower"]`),
	"moduleLoader.container.modprobe.args.load":           modprobe(`"args": {"load": ["-f"], "unload": ["-v"]}`),
	"moduleLoader.container.modprobe.args.unload":         modprobe(`"args": {"load": ["-v"], "unload": ["-q"]}`),
	"moduleLoader.container.modprobe.rawArgs.load":        modprobe(`"moduleName": null, "rawArgs": {"load": ["mod", "a=1"], "unload": ["mod"]}`),
	"moduleLoader.container.modprobe.rawArgs.unload":      modprobe(`"moduleName": null, "rawArgs": {"load": ["mod"], "unload": ["-r", "other"]}`),

	"moduleLoader.container.kernelMappings[].literal":                           mapping(`"regexp": null, "literal": "6.1.0"`),
	"moduleLoader.container.kernelMappings[].regexp":                            mapping(`"regexp": "^6"`),
	"moduleLoader.container.kernelMappings[].containerImage":                    mapping(`"containerImage": "other:1"`),
	"moduleLoader.container.kernelMappings[].inTreeModuleToRemove":              mapping(`"inTreeModuleToRemove": "old"`),
	"moduleLoader.container.kernelMappings[].inTreeModulesToRemove":             mapping(`"inTreeModulesToRemove": ["old"]`),
	"moduleLoader.container.kernelMappings[].registryTLS.insecure":              mapping(`"registryTLS": {"insecure": true}`),
	"moduleLoader.container.kernelMappings[].registryTLS.insecureSkipTLSVerify": mapping(`"registryTLS": {"insecureSkipTLSVerify": true}`),
	"moduleLoader.container.kernelMappings[].build":                             mapping(`"build": {"dockerfileConfigMap": {"name": "x"}}`),
	"moduleLoader.container.kernelMappings[].sign":                              mapping(`"sign": {"unsignedImage": "a:1"}`),
}

func container(s string) string { return `{"moduleLoader": {"container": {` + s + `}}}` }
func modprobe(s string) string  { return container(`"modprobe": {` + s + `}`) }
func mapping(s string) string   { return container(`"kernelMappings": [{` + s + `}]`) }

const base = `{"moduleLoader": {"container": {"modprobe": {"moduleName": "mod"}, "kernelMappings": [{"regexp": ".", "containerImage": "image:1"}]}}}`

// TestFieldsOnANode: each field is accepted, and changes what the node does unless
// its tag says that it is ignored.
func TestFieldsOnANode(t *testing.T) {
	plain := onANode(t, base)
	paths := map[string]bool{}
	fields(reflect.TypeFor[ModuleSpec](), "", func(path string, ignored bool) { paths[path] = ignored })
	assert.ElementsMatch(t, slices.Collect(maps.Keys(paths)), slices.Collect(maps.Keys(samples)), "each field has a sample")
	for path, ignored := range paths {
		t.Run(path, func(t *testing.T) {
			with := onANode(t, overlay(t, base, samples[path]))
			assert.Equal(t, ignored, reflect.DeepEqual(plain, with), "the tag says ignored: %v", ignored)
		})
	}
}

// fields gives those that have no fields of their own, or are ignored whole.
func fields(of reflect.Type, at string, give func(path string, ignored bool)) {
	for f := range of.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		path := strings.TrimPrefix(at+"."+name, ".")
		ignored := f.Tag.Get("node") == "ignored"
		inner, list := f.Type, ""
		for inner.Kind() == reflect.Pointer || inner.Kind() == reflect.Slice {
			if inner.Kind() == reflect.Slice {
				list = "[]"
			}
			inner = inner.Elem()
		}
		if inner.Kind() == reflect.Struct && !ignored {
			fields(inner, path+list, give)
		} else {
			give(path, ignored)
		}
	}
}

// onANode is what a node makes of a Module.
func onANode(t *testing.T, spec string) *Choice {
	t.Helper()
	m, err := ParseJSON("test", []byte(`{"apiVersion": "kmm.sigs.x-k8s.io/v1beta1", "kind": "Module", "metadata": {"name": "x"}, "spec": `+spec+`}`))
	require.NoError(t, err)
	choice, err := m.For("6.1.0")
	require.NoError(t, err)
	return choice
}

// overlay lays one object over another; lists of objects go one by one.
func overlay(t *testing.T, under, over string) string {
	t.Helper()
	var u, o any
	require.NoError(t, json.Unmarshal([]byte(under), &u))
	require.NoError(t, json.Unmarshal([]byte(over), &o))
	out, err := json.Marshal(merged(u, o))
	require.NoError(t, err)
	return string(out)
}

func merged(under, over any) any {
	switch o := over.(type) {
	case map[string]any:
		u, ok := under.(map[string]any)
		if !ok {
			return over
		}
		for k, v := range o {
			if u[k] = merged(u[k], v); v == nil {
				delete(u, k)
			}
		}
		return u
	case []any:
		if u, ok := under.([]any); ok && len(u) == len(o) {
			for i := range o {
				u[i] = merged(u[i], o[i])
			}
			return u
		}
	}
	return over
}
