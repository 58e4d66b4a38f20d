// SPDX-License-Identifier: Apache-2.0

package build_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
	"github.com/kmm-node/kmmd/pkg/build"
	"github.com/kmm-node/kmmd/pkg/spec"
)

func TestForMerges(t *testing.T) {
	m := module(t, "merged")
	r := request(t, m)
	three := 3
	want := &build.Request{
		Namespace: "ns", Name: "a.driver-with-dots.and.a-very-long.name", UID: "5f0c9e52-0000-4000-8000-000000000002",
		Kernel:      release,
		Image:       "registry:5000/ns/foo:" + release,
		RegistryTLS: v1beta1.TLSOptions{InsecureSkipTLSVerify: true}, // the mapping's replaces all of it
		Modules:     []string{"foo_base", "foo_top"}, DirName: "/opt/foo", FirmwarePath: "/firmware",
		Parameters: []string{"debug=1"}, ForceVermagic: true,
		Build: &build.Build{
			DockerfileConfigMap: "mapping-dockerfile",
			Args: []v1beta1.BuildArg{
				{Name: "FIRST", Value: "from the mapping"},
				{Name: "KERNEL_VERSION", Value: release},
				{Name: "SECOND", Value: "$(touch /tmp/x); `id` \"' --no"},
				{Name: "THIRD", Value: "from the mapping"},
				{Name: "KERNEL_FULL_VERSION", Value: release},
				{Name: "MOD_NAME", Value: "a.driver-with-dots.and.a-very-long.name"},
				{Name: "MOD_NAMESPACE", Value: "ns"},
			},
			Secrets:              []string{"a.secret.with.dots", "shared", "more"},
			BaseImageRegistryTLS: v1beta1.TLSOptions{Insecure: true, InsecureSkipTLSVerify: true},
			KanikoTag:            "v1.27.6",
		},
		Sign: &build.Sign{ // and no unsignedImage: what is built is signed
			KeySecret: "key", CertSecret: "mapping-cert",
			Files: []string{"/opt/foo/lib/modules/" + release + "/foo-*.ko", "/opt/foo/lib/modules/" + release + "/extra/*.ko"},
		},
		ServiceAccountName: "loader", PushSecret: "push",
		Selector:    map[string]string{"kind": "builder"},
		Tolerations: []corev1.Toleration{{Key: "gpu", Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule}},
		Rebuild:     &three,
	}
	assert.Equal(t, want, r)

	configMaps, secrets := r.Needs()
	assert.Equal(t, []string{"mapping-dockerfile"}, configMaps)
	assert.Equal(t, []string{"a.secret.with.dots", "key", "mapping-cert", "more", "shared"}, secrets)

	again := module(t, "merged")
	assert.Equal(t, again, m, "the Module is not changed")
}

func TestForOfOneLevel(t *testing.T) {
	m := module(t, "merged")
	c := &m.Spec.ModuleLoader.Container
	c.KernelMappings[0].Build, c.KernelMappings[0].Sign = nil, nil
	r := request(t, m)
	assert.Equal(t, "container-dockerfile", r.Build.DockerfileConfigMap)
	assert.Equal(t, "container-cert", r.Sign.CertSecret)

	m = module(t, "merged")
	c = &m.Spec.ModuleLoader.Container
	c.Build, c.Sign = nil, nil
	c.KernelMappings[0].Sign = nil
	r = request(t, m)
	assert.Equal(t, []string{"shared", "more"}, r.Build.Secrets)
	assert.Nil(t, r.Sign)
	assert.Equal(t, map[string]string{"kind": "the container wins"}, r.Selector, "where the container says nothing")
	c.KernelMappings[0].Build.Selector = nil
	assert.Equal(t, map[string]string{"kind": "worker"}, request(t, m).Selector, "the Module's, as nobody says where to build")

	sign := request(t, module(t, "sign"))
	assert.Equal(t, "registry/signed-unsigned:6.1.0", sign.Sign.UnsignedImage)
	assert.Equal(t, v1beta1.TLSOptions{Insecure: true}, sign.Sign.UnsignedImageRegistryTLS)
}

// A kernel's release has a "+" less everywhere in an image, but not where the
// kernel's own word counts.
func TestForPlus(t *testing.T) {
	r, err := build.For(module(t, "annotated"), "6.5.0-1020.22~22.04+")
	require.NoError(t, err)
	assert.Equal(t, "6.5.0-1020.22~22.04+", r.Kernel)
	assert.Equal(t, "some.registry/org/my_kmod:6.5.0-1020.22_22.04", r.Image)
	assert.Contains(t, r.Build.Args, v1beta1.BuildArg{Name: "KERNEL_FULL_VERSION", Value: "6.5.0-1020.22~22.04"})
	assert.Equal(t, []string{"/opt/lib/modules/6.5.0-1020.22_22.04/my_kmod.ko"}, r.Sign.Files)
}

func TestForNothingToMake(t *testing.T) {
	for name, change := range map[string]struct {
		module, kernel string
		noLoader       bool
	}{
		"a mapping without build and sign": {module: "build", kernel: "prebuilt"},
		"no mapping":                       {module: "build", kernel: "none"},
		"no moduleLoader":                  {module: "build", kernel: release, noLoader: true},
	} {
		t.Run(name, func(t *testing.T) {
			m := module(t, change.module)
			if change.noLoader {
				m.Spec.ModuleLoader = nil
			}
			r, err := build.For(m, change.kernel)
			assert.NoError(t, err)
			assert.Nil(t, r)
		})
	}
}

func TestForErrors(t *testing.T) {
	for name, c := range map[string]struct {
		module string
		set    func(c *v1beta1.ModuleLoaderContainerSpec)
		is     error
		says   string
	}{
		"no Dockerfile":    {"build", func(c *v1beta1.ModuleLoaderContainerSpec) { c.KernelMappings[1].Build.DockerfileConfigMap = nil }, build.ErrIncomplete, "dockerfileConfigMap"},
		"no key":           {"sign", func(c *v1beta1.ModuleLoaderContainerSpec) { c.KernelMappings[0].Sign.KeySecret = nil }, build.ErrIncomplete, "keySecret"},
		"no certificate":   {"sign", func(c *v1beta1.ModuleLoaderContainerSpec) { c.KernelMappings[0].Sign.CertSecret = nil }, build.ErrIncomplete, "certSecret"},
		"no files":         {"sign", func(c *v1beta1.ModuleLoaderContainerSpec) { c.KernelMappings[0].Sign.FilesToSign = nil }, build.ErrIncomplete, "filesToSign"},
		"no unsignedImage": {"sign", func(c *v1beta1.ModuleLoaderContainerSpec) { c.KernelMappings[0].Sign.UnsignedImage = "" }, build.ErrIncomplete, "unsignedImage"},
		"files":            {"sign", func(c *v1beta1.ModuleLoaderContainerSpec) { c.KernelMappings[0].Sign.FilesToSign = []string{"/${X"} }, nil, "sign.filesToSign: expand"},
		"unsignedImage":    {"sign", func(c *v1beta1.ModuleLoaderContainerSpec) { c.KernelMappings[0].Sign.UnsignedImage = "x:${X" }, nil, "sign.unsignedImage: expand"},
		"a file that is only a variable which is not there": {"sign", func(c *v1beta1.ModuleLoaderContainerSpec) {
			c.KernelMappings[0].Sign.FilesToSign = []string{"${FILE}"}
		}, build.ErrIncomplete, "sign.filesToSign: there is no variable ${FILE}: it expands to nothing; sign.filesToSign names no file"},
		"an unsignedImage that is only a variable which is not there": {"sign", func(c *v1beta1.ModuleLoaderContainerSpec) {
			c.KernelMappings[0].Sign.UnsignedImage = "$UNSIGNED"
		}, build.ErrIncomplete, "sign.unsignedImage: there is no variable ${UNSIGNED}: it expands to nothing; sign.unsignedImage is empty"},
		"containerImage": {"build", func(c *v1beta1.ModuleLoaderContainerSpec) { c.KernelMappings[1].ContainerImage = "x:${X" }, nil, "x:${X"},
		"no tag":         {"build", func(c *v1beta1.ModuleLoaderContainerSpec) { c.KernelMappings[1].ContainerImage = "x" }, nil, "neither a tag"},
		"digest": {"build", func(c *v1beta1.ModuleLoaderContainerSpec) {
			c.KernelMappings[1].ContainerImage = "x@sha256:6a1e6f0e6a1e6f0e6a1e6f0e6a1e6f0e6a1e6f0e6a1e6f0e6a1e6f0e6a1e6f0e"
		}, build.ErrNotPushable, "x@sha256:6a1e"},
		"layout": {"build", func(c *v1beta1.ModuleLoaderContainerSpec) { c.KernelMappings[1].ContainerImage = "oci:/srv/image" }, build.ErrNotPushable, "oci:/srv/image"},
	} {
		t.Run(name, func(t *testing.T) {
			m := module(t, c.module)
			c.set(&m.Spec.ModuleLoader.Container)
			r, err := build.For(m, release)
			assert.Nil(t, r)
			require.Error(t, err)
			if c.is != nil {
				assert.ErrorIs(t, err, c.is)
			}
			assert.ErrorContains(t, err, c.says)
			assert.ErrorContains(t, err, "ns/"+m.Name)
		})
	}
}

// TestForUnsetVariables: each is told once, for each field that has it.
func TestForUnsetVariables(t *testing.T) {
	m := module(t, "sign")
	s := m.Spec.ModuleLoader.Container.KernelMappings[0].Sign
	s.FilesToSign = []string{"/opt/${KERNEL_FULL_VERSON}/a.ko", "/opt/${KERNEL_FULL_VERSON}/$MOD_NAME.ko", "/opt/${NONE:-x}.ko"}
	s.UnsignedImage = "registry/x:${TAG}1"
	hash := request(t, m).Hash()
	assert.Equal(t, &build.Sign{
		KeySecret: s.KeySecret.Name, CertSecret: s.CertSecret.Name, UnsignedImage: "registry/x:1", UnsignedImageRegistryTLS: s.UnsignedImageRegistryTLS,
		Files: []string{"/opt//a.ko", "/opt//" + m.Name + ".ko", "/opt/x.ko"},
		Unset: []string{
			"sign.filesToSign: there is no variable ${KERNEL_FULL_VERSON}: it expands to nothing",
			"sign.unsignedImage: there is no variable ${TAG}: it expands to nothing",
		},
	}, request(t, m).Sign)
	s.UnsignedImage = "registry/x:1"
	assert.Equal(t, hash, request(t, m).Hash(), "it is the same image")
}

func TestPlain(t *testing.T) {
	r, err := build.Plain(module(t, "build"), "prebuilt")
	require.NoError(t, err)
	assert.Equal(t, "registry/foo:prebuilt", r.Image)
	assert.Nil(t, r.Build)
	configMaps, secrets := r.Needs()
	assert.Empty(t, configMaps)
	assert.Empty(t, secrets)

	_, err = build.Plain(module(t, "build"), "none")
	assert.ErrorIs(t, err, spec.ErrNoMapping)
	m := module(t, "build")
	m.Spec.ModuleLoader = nil
	_, err = build.Plain(m, release)
	assert.ErrorIs(t, err, spec.ErrNoMapping)
}

func TestHash(t *testing.T) {
	base := func() *build.Request {
		r := request(t, module(t, "merged"))
		r.Versions = map[string]string{"configmap/mapping-dockerfile": "1", "secret/key": "1", "secret/shared": "1"}
		return r
	}
	seen := map[string]string{base().Hash(): "nothing"}
	assert.Regexp(t, `^[0-9a-f]{16}$`, base().Hash())
	zero, four := 0, 4
	for what, change := range map[string]func(*build.Request){
		"kernel":              func(r *build.Request) { r.Kernel = "6.1.1" },
		"image":               func(r *build.Request) { r.Image += "x" },
		"Module":              func(r *build.Request) { r.Name = "other" },
		"rebuild":             func(r *build.Request) { r.Rebuild = &four },
		"rebuild to 0":        func(r *build.Request) { r.Rebuild = &zero },
		"no rebuild":          func(r *build.Request) { r.Rebuild = nil },
		"Dockerfile":          func(r *build.Request) { r.Build.DockerfileConfigMap = "other" },
		"Dockerfile's text":   func(r *build.Request) { r.Versions["configmap/mapping-dockerfile"] = "2" },
		"argument":            func(r *build.Request) { r.Build.Args[0].Value = "other" },
		"one argument more":   func(r *build.Request) { r.Build.Args = append(r.Build.Args, v1beta1.BuildArg{Name: "NEW"}) },
		"build secret":        func(r *build.Request) { r.Build.Secrets = r.Build.Secrets[1:] },
		"build secret's text": func(r *build.Request) { r.Versions["secret/shared"] = "2" },
		"no build":            func(r *build.Request) { r.Build = nil },
		"key":                 func(r *build.Request) { r.Sign.KeySecret = "other" },
		"key's text":          func(r *build.Request) { r.Versions["secret/key"] = "2" },
		"certificate":         func(r *build.Request) { r.Sign.CertSecret = "other" },
		"certificate's text":  func(r *build.Request) { r.Versions["secret/mapping-cert"] = "2" },
		"files":               func(r *build.Request) { r.Sign.Files = r.Sign.Files[1:] },
		"unsigned image":      func(r *build.Request) { r.Sign.UnsignedImage = "other" },
		"no sign":             func(r *build.Request) { r.Sign = nil },
	} {
		r := base()
		change(r)
		if was, ok := seen[r.Hash()]; ok {
			t.Errorf("%s: the same hash as %s", what, was)
		}
		seen[r.Hash()] = what
	}
	for what, change := range map[string]func(*build.Request){
		"selector":        func(r *build.Request) { r.Selector = nil },
		"tolerations":     func(r *build.Request) { r.Tolerations = nil },
		"service account": func(r *build.Request) { r.ServiceAccountName = "" },
		"pull secrets":    func(r *build.Request) { r.PullSecrets = []string{"base"} },
		"push secret":     func(r *build.Request) { r.PushSecret = "" },
		"TLS": func(r *build.Request) {
			r.RegistryTLS, r.Build.BaseImageRegistryTLS = v1beta1.TLSOptions{}, v1beta1.TLSOptions{}
		},
		"UID":            func(r *build.Request) { r.UID = "" },
		"other versions": func(r *build.Request) { r.Versions["secret/push"] = "2" },
	} {
		r := base()
		change(r)
		assert.Equal(t, "nothing", seen[r.Hash()], what)
	}
}

func TestID(t *testing.T) {
	r := request(t, module(t, "annotated"))
	hash := r.Hash()
	r.ID = "0123456789abcdef"
	assert.Equal(t, hash, r.Hash(), "the image is the same")
	j := r.Job(build.Check, 3, build.Options{OurImage: "a:1"})
	assert.Equal(t, "my-kmod-check-0123456789abcdef-3", j.Name)
	assert.Equal(t, r.ID, j.Labels[build.HashLabel])
	assert.Equal(t, r.ID, j.Spec.Template.Labels[build.HashLabel])
}
