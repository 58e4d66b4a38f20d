// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const goodYAML = `apiVersion: kmm.sigs.x-k8s.io/v1beta1
kind: Module
metadata:
  name: good
  namespace: ns
spec:
  moduleLoader:
    container:
      modprobe:
        moduleName: dummy
        parameters: [numdummies=2]
        firmwarePath: /firmware
      inTreeModulesToRemove: [dummy]
      registryTLS: {insecure: true}
      kernelMappings:
      - literal: 6.1.0
        containerImage: reg/img:1
        inTreeModulesToRemove: []
      - regexp: '^.+$'
        containerImage: reg/img:2
`

const goodTOML = `apiVersion = "kmm.sigs.x-k8s.io/v1beta1"
kind = "Module"
[metadata]
name = "good"
namespace = "ns"
[spec.moduleLoader.container]
inTreeModulesToRemove = ["dummy"]
registryTLS = { insecure = true }
[spec.moduleLoader.container.modprobe]
moduleName = "dummy"
parameters = ["numdummies=2"]
firmwarePath = "/firmware"
[[spec.moduleLoader.container.kernelMappings]]
literal = "6.1.0"
containerImage = "reg/img:1"
inTreeModulesToRemove = []
[[spec.moduleLoader.container.kernelMappings]]
regexp = '^.+$'
containerImage = "reg/img:2"
`

func TestBothNotationsAreEqual(t *testing.T) {
	y, _, err := Parse("good.yaml", []byte(goodYAML))
	require.NoError(t, err)
	o, _, err := Parse("good.toml", []byte(goodTOML))
	require.NoError(t, err)
	require.Len(t, y, 1)
	require.Len(t, o, 1)
	y[0].File, o[0].File = "", ""
	assert.Equal(t, y, o)
	assert.Equal(t, "ns/good", y[0].Key())
	assert.NotNil(t, y[0].Spec.ModuleLoader.Container.KernelMappings[0].InTreeModulesToRemove, "an explicit [] is not absence")
}

func TestAnnotatedExample(t *testing.T) {
	data, err := os.ReadFile("testdata/annotated.yaml")
	require.NoError(t, err)
	modules, _, err := Parse("annotated.yaml", data)
	require.NoError(t, err)
	require.Len(t, modules, 1)
	require.Len(t, modules[0].Warnings, 1)
	assert.Contains(t, modules[0].Warnings[0], `annotated.yaml:18: spec.moduleLoader.container.kernelMappings[1].regexp: \f is the control character U+000C`)
	assert.Contains(t, modules[0].Warnings[0], `did you mean "\.f"`)
	c, err := modules[0].For("6.0.15-300.fc37.x86_64")
	require.NoError(t, err)
	assert.Equal(t, "some.registry/org/my-kmod:6.0.15-300.fc37.x86_64", c.Image)
	assert.Equal(t, "/firmware", c.FirmwarePath)
}

// TestProblems edits the good document and wants file, line, field and words.
func TestProblems(t *testing.T) {
	tests := []struct {
		name      string
		old, new  string
		line      int
		field     string
		message   string
		otherwise string // the same edit in TOML: "old=>new", line
		tomlLine  int
	}{
		{"unknown field", "moduleName: dummy", "moduleName: dummy\n        paramters: [a]", 11, "spec.moduleLoader.container.modprobe.paramters", `did you mean "parameters"`,
			"moduleName = \"dummy\"=>moduleName = \"dummy\"\nparamters = [\"a\"]", 11},
		{"field in the wrong place", "moduleName: dummy", "moduleName: dummy\n        imagePullPolicy: Always", 11, "spec.moduleLoader.container.modprobe.imagePullPolicy", "it is a field of container",
			"moduleName = \"dummy\"=>moduleName = \"dummy\"\nimagePullPolicy = \"Always\"", 11},
		{"bad regexp", "'^.+$'", "'^(.+$'", 19, "spec.moduleLoader.container.kernelMappings[1].regexp", "missing closing )", "'^.+$'=>'^(.+$'", 18},
		{"literal and regexp", "literal: 6.1.0", "literal: 6.1.0\n        regexp: x", 16, "spec.moduleLoader.container.kernelMappings[0]", "both literal and regexp",
			"literal = \"6.1.0\"=>literal = \"6.1.0\"\nregexp = \"x\"", 13},
		{"singular and plural", "inTreeModulesToRemove: [dummy]", "inTreeModulesToRemove: [dummy]\n      inTreeModuleToRemove: dummy", 14, "spec.moduleLoader.container.inTreeModuleToRemove", "use the plural",
			"registryTLS=>inTreeModuleToRemove = \"dummy\"\nregistryTLS", 8},
		{"image without tag", "reg/img:2", "localhost:5000/img", 20, "spec.moduleLoader.container.kernelMappings[1].containerImage", "neither a tag", "reg/img:2=>localhost:5000/img", 19},
		{"no image", "containerImage: reg/img:2", "registryTLS: {}", 19, "spec.moduleLoader.container.kernelMappings[1].containerImage", "required", "containerImage = \"reg/img:2\"=>", 17},
		{"missing brace", "reg/img:2", "'reg/img:${KERNEL_X'", 20, "spec.moduleLoader.container.kernelMappings[1].containerImage", "brace", "reg/img:2=>reg/img:${KERNEL_X", 19},
		{"wrong type", "[numdummies=2]", "numdummies=2", 11, "spec.moduleLoader.container.modprobe.parameters", "a list", "[\"numdummies=2\"]=>\"numdummies=2\"", 11},
		{"number for string", "literal: 6.1.0", "literal: 6.1", 16, "spec.moduleLoader.container.kernelMappings[0].literal", "quotes", "\"6.1.0\"=>6.1", 14},
		{"module name", "moduleName: dummy", "moduleName: /dummy.ko", 10, "spec.moduleLoader.container.modprobe.moduleName", "not a module name", "\"dummy\"\nparam=>\"dummy.ko\"\nparam", 10},
		{"no module name", "moduleName: dummy", "dirName: /opt", 9, "spec.moduleLoader.container.modprobe.moduleName", "required", "moduleName = \"dummy\"=>", 9},
		{"unknown flag", "moduleName: dummy", "moduleName: dummy\n        args: {load: [--show-depends]}", 11, "spec.moduleLoader.container.modprobe.args.load", "--show-depends",
			"moduleName = \"dummy\"=>moduleName = \"dummy\"\nargs.load = [\"--show-depends\"]", 11},
		{"forced unload", "moduleName: dummy", "moduleName: dummy\n        args: {unload: [-f]}", 11, "spec.moduleLoader.container.modprobe.args.unload", "never done",
			"moduleName = \"dummy\"=>moduleName = \"dummy\"\nargs.unload = [\"-f\"]", 11},
		{"forced unload in raw words", "moduleName: dummy\n        parameters: [numdummies=2]", "rawArgs: {load: [-f, dummy], unload: [-r, -f, dummy]}", 10, "spec.moduleLoader.container.modprobe.rawArgs.unload", "never done",
			"moduleName = \"dummy\"\nparameters = [\"numdummies=2\"]=>rawArgs.load = [\"dummy\"]\nrawArgs.unload = [\"--force-vermagic\", \"dummy\"]", 11},
		{"loading order", "moduleName: dummy", "moduleName: dummy\n        modulesLoadingOrder: [b, dummy, b]", 11, "spec.moduleLoader.container.modprobe.modulesLoadingOrder[0]", "must be moduleName",
			"moduleName = \"dummy\"=>moduleName = \"dummy\"\nmodulesLoadingOrder = [\"b\", \"dummy\", \"b\"]", 11},
		{"pull policy", "registryTLS: {insecure: true}", "imagePullPolicy: Sometimes", 14, "spec.moduleLoader.container.imagePullPolicy", "Sometimes",
			"registryTLS = { insecure = true }=>imagePullPolicy = \"Sometimes\"", 8},
		{"api version", "v1beta1", "v2", 1, "apiVersion", "not understood", "v1beta1=>v2", 1},
		{"long name", "name: good", "name: " + strings.Repeat("x", 40), 4, "metadata.name", "more than the 41", "\"good\"=>\"" + strings.Repeat("x", 40) + "\"", 4},
		{"misspelt permission", "registryTLS: {insecure: true}", "allowInUse: [net]", 14, "spec.moduleLoader.container.allowInUse[0]", "none of network",
			"registryTLS = { insecure = true }=>allowInUse = [\"net\"]", 8},
		{"misspelt annotation", "namespace: ns", "namespace: ns\n  annotations: {kmm.node.kubernetes.io/before-unload: 'unbind, sriov'}", 6, "metadata.annotations.kmm.node.kubernetes.io/before-unload", "none of unbind, sriov-reset",
			"namespace = \"ns\"=>namespace = \"ns\"\nannotations = { \"kmm.node.kubernetes.io/before-unload\" = \"sriov\" }", 6},
		{"bad name", "name: good", "name: Good_1", 4, "metadata.name", "lower-case", "\"good\"=>\"Good_1\"", 4},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			require.Contains(t, goodYAML, tt.old)
			requireProblem(t, "bad.yaml", strings.Replace(goodYAML, tt.old, tt.new, 1), tt.line, tt.field, tt.message)
			before, after, _ := strings.Cut(tt.otherwise, "=>")
			require.Contains(t, goodTOML, before)
			requireProblem(t, "bad.toml", strings.Replace(goodTOML, before, after, 1), tt.tomlLine, tt.field, tt.message)
		})
	}
}

func requireProblem(t *testing.T, file, data string, line int, field, message string) {
	t.Helper()
	modules, _, err := Parse(file, []byte(data))
	require.ErrorIs(t, err, ErrInvalid)
	assert.Empty(t, modules, "a file with a problem gives nothing")
	want := fmt.Sprintf("%s:%d: %s: ", file, line, field)
	for _, l := range strings.Split(err.Error(), "\n") {
		if strings.HasPrefix(l, want) && strings.Contains(l, message) {
			return
		}
	}
	assert.Failf(t, "problem not found", "want %s…%s, got:\n%s", want, message, err)
}

func TestSyntaxErrors(t *testing.T) {
	tests := []struct{ name, file, data, want string }{
		{"yaml", "a.yaml", "a: b\n  c: d\n", "a.yaml:2: mapping values are not allowed"},
		{"yaml twice", "a.yaml", "kind: Module\nkind: Module\n", "a.yaml:2: mapping key \"kind\" already defined at line 1"},
		{"toml", "a.toml", "a = 1\nb = [\n", "a.toml:"},
		{"toml twice", "a.toml", "a = 1\na = 2\n", "a.toml:2: a: "},
		{"no kind", "a.yaml", "spec: {}\n", "a.yaml:1: kind: is missing"},
		{"kind in small letters", "a.yaml", "kind: module\n", "a.yaml:1: kind: \"module\": did you mean \"Module\"?"},
		{"kind misspelt", "a.toml", "kind = \"Modul\"\n", "a.toml:1: kind: \"Modul\": did you mean"},
		{"list", "a.yaml", "- a\n", "a.yaml:1: cannot unmarshal"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, _, err := Parse(tt.file, []byte(tt.data))
			require.ErrorIs(t, err, ErrInvalid)
			assert.Contains(t, err.Error(), tt.want)
		})
	}
}

func TestSeveralDocuments(t *testing.T) {
	other := "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: dockerfile}\ndata: {dockerfile: FROM scratch}\n"
	second := "---\n" + strings.Replace(goodYAML, "name: good", "name: second", 1)
	modules, ignored, err := Parse("many.yaml", []byte(goodYAML+other+second+"---\n"))
	require.NoError(t, err)
	require.Len(t, modules, 2)
	assert.Equal(t, "ns/second", modules[1].Key())
	require.Len(t, ignored, 1)
	assert.Contains(t, ignored[0], "ConfigMap")
}

func TestLint(t *testing.T) {
	tests := []struct{ name, old, new, want string }{
		{"tab", "'^.+$'", `'\tainted'`, `did you mean "\.t"`},
		{"literal that is a pattern", "literal: 6.1.0", "literal: '^6.+$'", "looks like a regexp"},
		{"literal with plus", "literal: 6.1.0", "literal: 6.1.0+", "is trimmed before matching"},
		{"unset variable", "reg/img:2", "'reg/img:${KERNEL}x'", "no variable ${KERNEL}"},
		{"unset variable in unsignedImage", "registryTLS: {insecure: true}", "sign: {unsignedImage: 'reg/img-${KERNAL_XYZ}'}",
			"lint.yaml:14: spec.moduleLoader.container.sign.unsignedImage: there is no variable ${KERNAL_XYZ}: it expands to nothing"},
		{"unset variable in filesToSign", "reg/img:2\n", "reg/img:2\n        sign:\n          filesToSign: [/a.ko, '/opt/$KERNEL_FULL_VERSON/*.ko']\n",
			"lint.yaml:22: spec.moduleLoader.container.kernelMappings[1].sign.filesToSign[1]: there is no variable ${KERNEL_FULL_VERSON}: it expands to nothing"},
		{"never reached", "literal: 6.1.0", "regexp: .+", "is never reached"},
		{"deprecated", "inTreeModulesToRemove: [dummy]\n", "inTreeModuleToRemove: dummy\n", "deprecated"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			data := strings.Replace(goodYAML, tt.old, tt.new, 1)
			if tt.name == "deprecated" {
				data = strings.Replace(data, "        inTreeModulesToRemove: []\n", "", 1)
			}
			modules, _, err := Parse("lint.yaml", []byte(data))
			require.NoError(t, err)
			assert.Contains(t, strings.Join(modules[0].Warnings, "\n"), tt.want)
		})
	}
}

// TestDefaultBesideRawArgs is what an API server makes of a Module with rawArgs.
func TestDefaultBesideRawArgs(t *testing.T) {
	raw := strings.Replace(goodYAML, "        moduleName: dummy\n        parameters: [numdummies=2]\n",
		"        rawArgs: {load: [dummy], unload: [-r, dummy]}\n        dirName: /opt\n", 1)
	_, _, err := Parse("raw.yaml", []byte(raw))
	require.NoError(t, err)
	_, _, err = Parse("raw.yaml", []byte(strings.Replace(raw, "dirName: /opt", "dirName: /srv", 1)))
	require.ErrorIs(t, err, ErrInvalid)
	assert.Contains(t, err.Error(), "may not stand beside args, parameters, dirName")
}

// TestAllInRawArgs: after -a modprobe takes no parameters.
func TestAllInRawArgs(t *testing.T) {
	raw := func(load string) error {
		_, _, err := Parse("raw.yaml", []byte(strings.Replace(goodYAML, "        moduleName: dummy\n        parameters: [numdummies=2]\n",
			"        rawArgs: {load: "+load+", unload: [dummy]}\n", 1)))
		return err
	}
	require.NoError(t, raw("[-a, dummy]"))
	require.NoError(t, raw("[dummy, a=1]"))
	for _, load := range []string{"[-a, dummy, other]", "[dummy, --all, other]"} {
		err := raw(load)
		require.ErrorIs(t, err, ErrInvalid)
		assert.Contains(t, err.Error(), `rawArgs.load: "other": -a makes a module of it`)
	}
}
