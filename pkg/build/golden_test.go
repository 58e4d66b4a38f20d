// SPDX-License-Identifier: Apache-2.0

package build_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
	"github.com/kmm-node/kmmd/pkg/build"
)

var update = flag.Bool("update", false, "write the golden files again")

const release = "6.1.0-56-cloud-amd64"

// module reads testdata/NAME.module.yaml, which may have no field that does not
// exist.
func module(t *testing.T, name string) *v1beta1.Module {
	t.Helper()
	text, err := os.ReadFile("testdata/" + name + ".module.yaml")
	require.NoError(t, err)
	var plain any
	require.NoError(t, yaml.Unmarshal(text, &plain))
	asJSON, err := json.Marshal(plain)
	require.NoError(t, err)
	strict := json.NewDecoder(bytes.NewReader(asJSON))
	strict.DisallowUnknownFields()
	m := &v1beta1.Module{}
	require.NoError(t, strict.Decode(m))
	return m
}

// request is For, of a Module that has something to make.
func request(t *testing.T, m *v1beta1.Module) *build.Request {
	t.Helper()
	r, err := build.For(m, release)
	require.NoError(t, err)
	require.NotNil(t, r)
	return r
}

func golden(t *testing.T, path string, o any) {
	t.Helper()
	asJSON, err := json.Marshal(o)
	require.NoError(t, err)
	var plain any
	require.NoError(t, yaml.Unmarshal(asJSON, &plain)) // YAML keeps whole numbers whole
	var text bytes.Buffer
	enc := yaml.NewEncoder(&text)
	enc.SetIndent(2)
	require.NoError(t, enc.Encode(plain))
	if *update {
		require.NoError(t, os.WriteFile(path, text.Bytes(), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.Equal(t, string(want), text.String())
}

var jobs = []struct {
	name    string // of the golden file
	module  string
	kind    build.Kind
	plain   bool
	pull    []string
	host    bool
	options build.Options
}{
	{name: "annotated-publish", module: "annotated", kind: build.Publish},
	{name: "annotated-rehearse", module: "annotated", kind: build.Rehearse, pull: []string{"base", "secret-name", "mirror", "base"}}, // secret-name pushes
	{name: "merged-kaniko", module: "merged", kind: build.Publish, pull: []string{"base"}, host: true},
	{name: "merged-buildah", module: "merged", kind: build.Publish, pull: []string{"base"}, host: true, options: build.Options{
		Builder: build.Buildah, BuilderImage: "mirror:5000/buildah:v1", HostUsers: new(bool), ImagePullPolicy: corev1.PullAlways,
		Deadline: 20 * time.Minute, Keep: time.Hour,
		Resources: corev1.ResourceRequirements{Limits: corev1.ResourceList{}},
	}},
	{name: "sign-publish", module: "sign", kind: build.Publish, pull: []string{"base"}},
	{name: "sign-rehearse", module: "sign", kind: build.Rehearse, pull: []string{"base"}},
	{name: "build-publish", module: "build", kind: build.Publish},
	{name: "build-rehearse", module: "build", kind: build.Rehearse},
	{name: "merged-check", module: "merged", kind: build.Check, pull: []string{"base"}},
	{name: "plain-check", module: "build", kind: build.Publish, plain: true}, // nothing to make: only to check
}

func TestJob(t *testing.T) {
	for _, c := range jobs {
		t.Run(c.name, func(t *testing.T) {
			m := module(t, c.module)
			var r *build.Request
			if c.plain {
				var err error
				r, err = build.Plain(m, release)
				require.NoError(t, err)
			} else {
				r = request(t, m)
			}
			r.PullSecrets, r.HostModules = c.pull, c.host
			c.options.OurImage = "registry/kmmd:v1"
			require.NoError(t, c.options.Check())
			job := r.Job(c.kind, 2, c.options)
			golden(t, "testdata/"+c.name+".golden.yaml", job)
			assert.Empty(t, validation.IsDNS1123Label(job.Name), job.Name)
			isolated(t, &job.Spec.Template.Spec, r)
		})
	}
}

// isolated: what runs a Dockerfile sees neither the key nor the push
// credentials, in no other volume either; what holds these can nothing else.
func isolated(t *testing.T, pod *corev1.PodSpec, r *build.Request) {
	t.Helper()
	require.NotNil(t, pod.AutomountServiceAccountToken)
	assert.False(t, *pod.AutomountServiceAccountToken)
	secretOf := func(volume string) string {
		i := slices.IndexFunc(pod.Volumes, func(v corev1.Volume) bool { return v.Name == volume })
		require.GreaterOrEqual(t, i, 0, volume)
		if s := pod.Volumes[i].Secret; s != nil {
			return s.SecretName
		}
		return ""
	}
	for _, c := range slices.Concat(pod.InitContainers, pod.Containers) {
		var seen []string
		for _, v := range c.VolumeMounts {
			seen = append(seen, secretOf(v.Name))
			if v.Name == "out" {
				assert.Equal(t, c.Name != "build", v.ReadOnly, "only the builder writes what it built")
			}
		}
		assert.Empty(t, c.Env)
		if c.Name == "build" {
			forbidden := []string{r.PushSecret}
			if r.Sign != nil {
				forbidden = append(forbidden, r.Sign.KeySecret)
			}
			for _, name := range forbidden {
				assert.False(t, name != "" && slices.Contains(seen, name), "%s is seen by the builder", name)
			}
			continue
		}
		s := c.SecurityContext
		require.NotNil(t, s)
		assert.True(t, *s.RunAsNonRoot && *s.ReadOnlyRootFilesystem && !*s.AllowPrivilegeEscalation)
		assert.Equal(t, []corev1.Capability{"ALL"}, s.Capabilities.Drop)
		assert.Empty(t, s.Capabilities.Add)
		assert.Empty(t, c.Command, "the image's own program")
		if c.Name == "credentials" || c.Name == "check" {
			assert.False(t, r.Sign != nil && slices.Contains(seen, r.Sign.KeySecret), "%s needs no key", c.Name)
		}
	}
}

// TestDeadlines: the pod's comes first, with time for the kubelet to end it.
func TestDeadlines(t *testing.T) {
	for deadline, want := range map[time.Duration]int64{
		time.Hour: 3420, 20 * time.Minute: 1140, time.Minute: 30, 6 * time.Second: 3, time.Second: 1,
	} {
		j := request(t, module(t, "build")).Job(build.Publish, 0, build.Options{OurImage: "kmmd", Deadline: deadline})
		assert.Equal(t, int64(deadline/time.Second), *j.Spec.ActiveDeadlineSeconds)
		assert.Equal(t, want, *j.Spec.Template.Spec.ActiveDeadlineSeconds, deadline)
	}
}

func TestJobName(t *testing.T) {
	for name, want := range map[string]string{
		"my-kmod":                       "my-kmod-publish-",
		"a.b":                           "a-b-publish-",
		strings.Repeat("x", 36):         strings.Repeat("x", 36) + "-publish-", // 63 with the attempt
		strings.Repeat("x", 39):         strings.Repeat("x", 36) + "-publish-",
		strings.Repeat("x", 35) + ".yz": strings.Repeat("x", 35) + "-publish-",
	} {
		m := module(t, "build")
		m.Namespace, m.Name = "n", name
		got := request(t, m).Job(build.Publish, 0, build.Options{}).Name
		assert.Empty(t, validation.IsDNS1123Label(got), got)
		assert.True(t, strings.HasPrefix(got, want), "%s: %s", name, got)
	}
}

func TestJobDiffers(t *testing.T) {
	r := request(t, module(t, "annotated"))
	names := map[string]bool{}
	for _, kind := range []build.Kind{build.Publish, build.Rehearse, build.Check} {
		for attempt := range 3 {
			names[r.Job(kind, attempt, build.Options{}).Name] = true
		}
	}
	assert.Len(t, names, 9)
}

func TestOptions(t *testing.T) {
	assert.NoError(t, (&build.Options{OurImage: "kmmd:v1", Builder: build.Buildah}).Check())
	for want, o := range map[string]build.Options{
		`builder "docker"`: {OurImage: "kmmd:v1", Builder: "docker"},
		"image of kmmd":    {},
		"deadline -1s":     {OurImage: "kmmd:v1", Deadline: -time.Second},
		"keep -1s":         {OurImage: "kmmd:v1", Keep: -time.Second},
	} {
		assert.ErrorContains(t, o.Check(), want)
	}
}
