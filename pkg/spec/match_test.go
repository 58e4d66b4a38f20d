// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func mapped(mappings ...KernelMapping) *Module {
	m := &Module{APIVersion: APIVersion, Kind: Kind, Metadata: Metadata{Name: "m", Namespace: "ns"}}
	m.Spec.ModuleLoader = &ModuleLoader{Container: Container{Modprobe: Modprobe{ModuleName: "mod"}, KernelMappings: mappings}}
	return m
}

func TestRelease(t *testing.T) {
	tests := []struct {
		release    Release
		trimmed    string
		normalized string
		dirs       []string
	}{
		{"6.1.0-56-cloud-amd64", "6.1.0-56-cloud-amd64", "6.1.0-56-cloud-amd64", []string{"6.1.0-56-cloud-amd64"}},
		{"6.1.0+", "6.1.0", "6.1.0", []string{"6.1.0+", "6.1.0"}},
		{"6.1.0++", "6.1.0+", "6.1.0_", []string{"6.1.0++", "6.1.0+", "6.1.0_"}},
		{"6.5.0-1020.22~22.04-generic", "6.5.0-1020.22~22.04-generic", "6.5.0-1020.22_22.04-generic",
			[]string{"6.5.0-1020.22~22.04-generic", "6.5.0-1020.22_22.04-generic"}},
	}
	for _, tt := range tests {
		t.Run(string(tt.release), func(t *testing.T) {
			assert.Equal(t, tt.trimmed, tt.release.Trimmed())
			assert.Equal(t, tt.normalized, tt.release.Normalized())
			assert.Equal(t, tt.dirs, tt.release.Directories())
		})
	}
}

func TestExpand(t *testing.T) {
	const k = "6.0.15-300.fc37.x86_64"
	tests := []struct {
		name, template, release, want string
		unset                         []string
		err                           bool
	}{
		{"vector", "reg/${MOD_NAMESPACE}/$MOD_NAME:${KERNEL_XYZ}-x", k, "reg/ns/m:6.0.15-x", nil, false},
		{"full version", "a:$KERNEL_FULL_VERSION", k, "a:" + k, nil, false},
		{"normalized", "a:${KERNEL_VERSION}", "6.5.0-1020.22~22.04-generic", "a:6.5.0-1020.22_22.04-generic", nil, false},
		{"parts", "a:${KERNEL_X}.${KERNEL_Y}.${KERNEL_Z}", k, "a:6.0.15", nil, false},
		{"parts, normalized", "a:${KERNEL_X}.${KERNEL_Y}.${KERNEL_Z}_${KERNEL_XYZ}", "6.12.38+deb13-amd64", "a:6.12.38_deb13_6.12.38_deb13", nil, false},
		{"default taken", "a:${NOPE:-d}${NOPE-e}", k, "a:de", nil, false},
		{"default not taken", "a:${KERNEL_X:-d}", k, "a:6", nil, false},
		{"alternative", "a:${KERNEL_X:+alt}${NOPE:+alt}", k, "a:alt", nil, false},
		{"dollar", "a:x$$y", k, "a:x$y", nil, false},
		{"unset", "a:${KERNEL_FULL}-$NOPE", k, "a:-", []string{"KERNEL_FULL", "NOPE"}, false},
		{"missing brace", "a:${KERNEL_X", k, "", nil, true},
		{"endless in the library", "a:${NOPE:-$_}", k, "", nil, true},
		{"endless behind braces", "a:${KERNEL_X:}=$_/", k, "", nil, true},
		{"short release", "a:${KERNEL_XYZ}", "6.1", "a:6.1", nil, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, unset, err := Expand(tt.template, Release(tt.release), "m", "ns")
			if tt.err {
				require.Error(t, err)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, tt.want, got)
			assert.Equal(t, tt.unset, unset)
		})
	}
}

func TestFor(t *testing.T) {
	lit := func(k, image string) KernelMapping { return KernelMapping{Literal: k, ContainerImage: image} }
	re := func(k, image string) KernelMapping { return KernelMapping{Regexp: k, ContainerImage: image} }
	tests := []struct {
		name     string
		release  Release
		mappings []KernelMapping
		image    string
		err      error
	}{
		{"first wins", "K", []KernelMapping{re(".+", "a:1"), lit("K", "b:1")}, "a:1", nil},
		{"regexp is unanchored", "6.0.15-300.fc37.x86_64", []KernelMapping{re("fc37", "a:1")}, "a:1", nil},
		{"form feed never matches", "6.0.15-300.fc37.x86_64", []KernelMapping{re(`^.+\fc37\.x86_64$`, "a:1")}, "", ErrNoMapping},
		{"literal is equality", "6.1.0-56", []KernelMapping{lit("6.1.0-5", "a:1")}, "", ErrNoMapping},
		{"literal is no pattern", "6a1", []KernelMapping{lit("6.1", "a:1")}, "", ErrNoMapping},
		{"trailing plus", "6.1.0+", []KernelMapping{lit("6.1.0", "a:1")}, "a:1", nil},
		{"literal with plus", "6.1.0+", []KernelMapping{lit("6.1.0+", "a:1")}, "", ErrNoMapping},
		{"layout without tag", "K", []KernelMapping{lit("K", "oci:/srv/kmod/${KERNEL_FULL_VERSION}")}, "oci:/srv/kmod/K", nil},
		{"archive without tag", "K", []KernelMapping{lit("K", "oci-archive:/srv/kmod-${KERNEL_FULL_VERSION}.tar")}, "oci-archive:/srv/kmod-K.tar", nil},
		{"port is no tag", "K", []KernelMapping{lit("K", "localhost:5000/img")}, "", ErrNoImage},
		{"digest", "K", []KernelMapping{lit("K", "localhost:5000/img@sha256:00")}, "localhost:5000/img@sha256:00", nil},
		{"tag out of an unset variable", "K", []KernelMapping{lit("K", "a${TAG}")}, "", ErrNoImage},
		{"image of the container", "K", []KernelMapping{lit("K", "")}, "default:1", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := mapped(tt.mappings...)
			m.Spec.ModuleLoader.Container.ContainerImage = "default:1"
			c, err := m.For(tt.release)
			if tt.err != nil {
				require.ErrorIs(t, err, tt.err)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, tt.image, c.Image)
			assert.Equal(t, DefaultDirName, c.DirName)
			assert.Equal(t, []string{"mod"}, c.Order)
		})
	}
}

func TestOverrides(t *testing.T) {
	tests := []struct {
		name   string
		change func(c *Container, k *KernelMapping)
		remove []string
		tls    RegistryTLS
	}{
		{"container's list", func(c *Container, _ *KernelMapping) { c.InTreeModulesToRemove = []string{"a-b", "c"} }, []string{"a_b", "c"}, RegistryTLS{}},
		{"mapping's list replaces", func(c *Container, k *KernelMapping) {
			c.InTreeModulesToRemove, k.InTreeModulesToRemove = []string{"a"}, []string{"b"}
		}, []string{"b"}, RegistryTLS{}},
		{"empty list switches off", func(c *Container, k *KernelMapping) {
			c.InTreeModulesToRemove, k.InTreeModulesToRemove = []string{"a"}, []string{}
		}, []string{}, RegistryTLS{}},
		{"singular", func(c *Container, _ *KernelMapping) { c.InTreeModuleToRemove = "a" }, []string{"a"}, RegistryTLS{}},
		{"singular replaces singular", func(c *Container, k *KernelMapping) {
			c.InTreeModuleToRemove, k.InTreeModuleToRemove = "a", "b"
		}, []string{"b"}, RegistryTLS{}},
		{"mapping's TLS replaces whole", func(c *Container, k *KernelMapping) {
			c.RegistryTLS, k.RegistryTLS = &RegistryTLS{Insecure: true}, &RegistryTLS{InsecureSkipTLSVerify: true}
		}, []string{}, RegistryTLS{InsecureSkipTLSVerify: true}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := mapped(KernelMapping{Literal: "K", ContainerImage: "a:1"})
			c := &m.Spec.ModuleLoader.Container
			tt.change(c, &c.KernelMappings[0])
			got, err := m.For("K")
			require.NoError(t, err)
			assert.Equal(t, tt.remove, got.RemoveInTree)
			assert.Equal(t, tt.tls, got.RegistryTLS)
		})
	}
}

func TestOrderAndWords(t *testing.T) {
	m := mapped(KernelMapping{Literal: "K", ContainerImage: "a:1"})
	p := &m.Spec.ModuleLoader.Container.Modprobe
	p.ModuleName, p.ModulesLoadingOrder = "a-1", []string{"a-1", "b", "c"}
	p.Args = &Args{Load: []string{"-v", "--force-vermagic"}}
	c, err := m.For("K")
	require.NoError(t, err)
	assert.Equal(t, []string{"c", "b", "a_1"}, c.Order)
	assert.Equal(t, Flags{IgnoreVermagic: true}, c.Flags)

	*p = Modprobe{RawArgs: &Args{Load: []string{"-f", "-d", "/opt2", "mod", "x=1", "y=2"}}}
	c, err = m.For("K")
	require.NoError(t, err)
	assert.Equal(t, "mod", c.ModuleName)
	assert.Equal(t, "/opt2", c.DirName)
	assert.Equal(t, []string{"x=1", "y=2"}, c.Parameters)
	assert.Equal(t, Flags{IgnoreVermagic: true, IgnoreModversions: true}, c.Flags)

	p.RawArgs.Load = []string{"--set-version", "x", "mod"}
	_, err = m.For("K")
	require.ErrorIs(t, err, ErrUnsupportedFlag)
	assert.Contains(t, err.Error(), "--set-version")
}

func TestInUseWords(t *testing.T) {
	m := mapped(KernelMapping{Literal: "K", ContainerImage: "a:1"})
	m.Metadata.Annotations = map[string]string{AnnotationAllowInUse: "network", AnnotationBeforeUnload: " sriov-reset , unbind"}
	m.Spec.ModuleLoader.Container.BeforeUnload = []string{ActionUnbind}
	c, err := m.For("K")
	require.NoError(t, err)
	assert.Equal(t, []string{UseNetwork}, c.AllowInUse)
	assert.Equal(t, []string{ActionUnbind, ActionSRIOVReset}, c.BeforeUnload)
}

func TestHasUser(t *testing.T) {
	for ref, want := range map[string]bool{
		"registry.example/a:1": false, "registry.example:5000/a/b:1": false, "registry.example/a@sha256:0123abcdef": false,
		"registry.example/a:1@sha256:0123abcdef": false, "registry.example/a@${DIGEST}": false, "registry.example/a@sha256:${DIGEST}": false, "a@": false,
		"oci:/srv/images:1": false, "oci-archive:/srv/a.tar": false,
		"user:word@registry.example/a:1": true, "user@registry.example/a:1": true, "https://user:word@registry.example/a:1": true,
		"user:word@registry.example/a@sha256:0123": true, "user:word@host:5000": true, "user:wo@rd@registry.example/a:1": true,
	} {
		assert.Equal(t, want, hasUser(ref), ref)
	}
}
