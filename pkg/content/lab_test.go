// SPDX-License-Identifier: Apache-2.0

package content_test

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/content"
	"github.com/kmm-node/kmmd/pkg/kmod"
	"github.com/kmm-node/kmmd/pkg/spec"
)

// labKernels gives the lab's directory and the releases of its kernels.
func labKernels(t *testing.T) (dir string, releases []string) {
	t.Helper()
	dir = os.Getenv("KMMD_LAB")
	if dir == "" {
		t.Skip("KMMD_LAB is not set")
	}
	text, err := os.ReadFile(filepath.Join(dir, "kernels"))
	require.NoError(t, err)
	for line := range strings.Lines(string(text)) {
		_, release, _ := strings.Cut(strings.TrimSpace(line), " ")
		releases = append(releases, release)
	}
	require.NotEmpty(t, releases)
	return dir, releases
}

// TestInTree has no finding for any module of Debian's kernels, whether the kernel
// is known or not.
func TestInTree(t *testing.T) {
	lab, releases := labKernels(t)
	for _, release := range releases {
		t.Run(release, func(t *testing.T) {
			dir := filepath.Join(lab, release, "lib/modules", release)
			own, err := kmod.OpenTree(dir)
			require.NoError(t, err)
			check := func(host *kmod.Tree, modules ...string) int {
				r, err := content.Check(content.Files{ModulesDir: dir, Path: "/lib/modules/" + release},
					content.Kernel{Release: spec.Release(release), Arch: runtime.GOARCH, Modules: host},
					content.Want{Modules: modules, Signed: &content.Signed{}})
				require.NoError(t, err)
				assert.Empty(t, report(r))
				return len(r.Files)
			}
			assert.Greater(t, check(own), 500)
			assert.Greater(t, check(nil, "virtio_net", "btrfs"), 4)
		})
	}
}

// TestOutOfTree names what is wrong with the lab's modules and their variants, for
// their own kernel and for the other one.
func TestOutOfTree(t *testing.T) {
	lab, releases := labKernels(t)
	for _, release := range releases {
		own, err := kmod.OpenTree(filepath.Join(lab, release, "lib/modules", release))
		require.NoError(t, err)
		check := func(t *testing.T, file string, k content.Kernel) string {
			t.Helper()
			dir := t.TempDir()
			data, err := os.ReadFile(filepath.Join(lab, release, "modules-oot", file))
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(filepath.Join(dir, filepath.Base(file)), data, 0o644))
			r, err := content.Check(content.Files{ModulesDir: dir, Path: inImage}, k, content.Want{Modules: []string{kmod.Name(file)}})
			require.NoError(t, err)
			return report(r)
		}
		for _, tt := range []struct{ file, bare, known string }{
			{"dummy.ko", "", ""},
			{"kmm_fw.ko", "", ""},
			{"kmm_dep.ko", "unknown: kmm_dep: needs kmm_base, which is not in the image", "error: kmm_dep: find module kmm_base needed by kmm_dep"},
			{"variants/other-release/dummy.ko", "error: dummy: the vermagic of", "error: dummy: the vermagic of"},
			{"variants/wrong-vermagic/dummy.ko", "", "error: dummy: version magic"},
			{"variants/wrong-crc/dummy.ko", "", "error: dummy: built against another kernel, CRCs differ: register_netdev"},
			{"variants/wrong-machine/dummy.ko", "error: dummy: built for arm64", "error: dummy: built for arm64"},
			{"variants/unknown-symbol/dummy.ko", "", "error: dummy: nobody exports: "},
			{"variants/truncated/dummy.ko", "(ImageInvalid)", "(ImageInvalid)"},
		} {
			t.Run(release+"/"+tt.file, func(t *testing.T) {
				k := content.Kernel{Release: spec.Release(release), Arch: runtime.GOARCH}
				said := check(t, tt.file, k)
				assert.Contains(t, said, tt.bare)
				assert.True(t, tt.bare != "" || said == "", said)
				k.Modules = own
				said = check(t, tt.file, k)
				assert.Contains(t, said, tt.known)
				assert.True(t, tt.known != "" || said == "", said)
			})
		}
		for _, other := range releases {
			if other != release {
				said := check(t, "dummy.ko", content.Kernel{Release: spec.Release(other), Arch: runtime.GOARCH})
				assert.Contains(t, said, "error: dummy: the vermagic of")
			}
		}
	}
}
