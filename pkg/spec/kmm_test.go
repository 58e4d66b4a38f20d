// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestDifferences edits the good document; what it does not use is not told.
func TestDifferences(t *testing.T) {
	for _, tt := range []struct {
		name, old, new string
		want           []string // each in one line, in this order
	}{
		{"as it is", "", "", []string{"inTreeModulesToRemove: dummy: loaded again", "parameters: are checked", "firmwarePath: kmmd sets"}},
		{"nothing", "        parameters: [numdummies=2]\n        firmwarePath: /firmware\n      inTreeModulesToRemove: [dummy]\n", "", nil},
		{"args", "parameters: [numdummies=2]\n        firmwarePath: /firmware\n      inTreeModulesToRemove: [dummy]", "args: {load: [-v, --force-vermagic, -v], unload: [-r]}",
			[]string{"modprobe.args: no modprobe runs: what is forced (-f, --force-vermagic, --force-modversion) is honoured; -v changes nothing", "modprobe.args.unload: what kmmd has loaded"}},
		{"rawArgs", "moduleName: dummy\n        parameters: [numdummies=2]\n        firmwarePath: /firmware\n      inTreeModulesToRemove: [dummy]", "rawArgs: {load: [-d, /opt, dummy]}",
			[]string{"modprobe.rawArgs: no modprobe runs"}},
		{"removed for one kernel only", "      inTreeModulesToRemove: [dummy]\n", "", []string{"parameters", "firmwarePath"}},
		{"never", "registryTLS: {insecure: true}", "imagePullPolicy: Never", []string{"inTree", "imagePullPolicy: Never: the image has to be in kmmd's store", "parameters", "firmwarePath"}},
		{"build without a secret", "registryTLS: {insecure: true}", "build: {dockerfileConfigMap: {name: d}, kanikoParams: {tag: v1}}",
			[]string{"inTree", "parameters", "firmwarePath", "build: base images that need a login are pulled with the imagePullSecrets of the ServiceAccount default", "kanikoParams: tag"}},
		{"sign only", "registryTLS: {insecure: true}", "sign: {unsignedImage: 'a:b'}", []string{"inTree", "parameters", "firmwarePath"}},
		{"dra", "spec:\n  moduleLoader:", "spec:\n  dra: {driverName: x}\n  moduleLoader:", []string{"spec.dra: the DaemonSet is named good-dra, and", "inTree", "parameters", "firmwarePath"}},
		{"dra of a version", "spec:\n  moduleLoader:\n    container:", "spec:\n  dra: {driverName: x}\n  moduleLoader:\n    container:\n      version: v1",
			[]string{"spec.dra: the DaemonSet is named good-dra-HASH (of the version), and", "inTree", "parameters", "firmwarePath"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			require.Contains(t, goodYAML, tt.old)
			modules, _, err := Parse("a.yaml", []byte(strings.Replace(goodYAML, tt.old, tt.new, 1)))
			require.NoError(t, err)
			got := modules[0].Differences()
			require.Len(t, got, len(tt.want), strings.Join(got, "\n"))
			for i := range tt.want {
				assert.Contains(t, got[i], tt.want[i])
			}
			assert.Equal(t, strings.HasPrefix(tt.name, "build") || strings.HasPrefix(tt.name, "sign") || strings.HasPrefix(tt.name, "dra"), modules[0].ForCluster())
		})
	}
}

// TestDifferencesOfTheExample is the annotated one of the operator's documentation.
func TestDifferencesOfTheExample(t *testing.T) {
	data, err := os.ReadFile("testdata/annotated.yaml")
	require.NoError(t, err)
	modules, _, err := Parse("annotated.yaml", data)
	require.NoError(t, err)
	assert.True(t, modules[0].ForCluster())
	assert.Equal(t, []string{
		"spec.devicePlugin: the DaemonSet is named my-kmod-device-plugin, and a cordon does not take its pods off",
		"spec.moduleLoader.serviceAccountName: no pod that loads runs under sa-module-loader: its imagePullSecrets count, and Jobs that build and sign use it",
		"spec.moduleLoader.container.modprobe.parameters: are checked by name and type before anything is removed; one that the module does not have is InvalidParameter, where the kernel would ignore it",
		"spec.moduleLoader.container.modprobe.firmwarePath: kmmd sets firmware_class.path itself. A file on the host with other content is FirmwareConflict, and not written over, unless the Module's image had just that before",
		"build: base images that need a login are pulled with the imagePullSecrets of the ServiceAccount sa-module-loader, not with imageRepoSecret secret-name, which RUN can not read",
		"sign: one Job builds, signs and pushes: the unsigned image is never in the registry, and unsignedImage does not count",
	}, modules[0].Differences())
}
