// SPDX-License-Identifier: Apache-2.0

package v1beta1_test

import (
	"math/rand/v2"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/spec"
)

// imageRules are the expressions of ImageTemplate's rules, out of what is
// generated: well-formed, and with a tag.
func imageRules(t *testing.T) (formed, tagged *regexp.Regexp) {
	t.Helper()
	data, err := os.ReadFile("strings.go")
	require.NoError(t, err)
	image, _, ok := strings.Cut(string(data), "type ImageTemplate")
	require.True(t, ok)
	found := regexp.MustCompile(`r'(\^.*?\$)'\)`).FindAllStringSubmatch(image, -1)
	require.Len(t, found, 3)
	require.Equal(t, found[0][1], found[1][1])
	return regexp.MustCompile(found[0][1]), regexp.MustCompile(found[2][1])
}

// nodeTakes says whether a node could use the template as an image.
func nodeTakes(template string) bool {
	m := spec.Module{Metadata: spec.Metadata{Name: "n", Namespace: "ns"}, Spec: spec.ModuleSpec{ModuleLoader: &spec.ModuleLoader{}}}
	m.Spec.ModuleLoader.Container.Modprobe.ModuleName = "m"
	m.Spec.ModuleLoader.Container.KernelMappings = []spec.KernelMapping{{Regexp: ".", ContainerImage: template}}
	_, err := m.For("1.2.3-4.generic")
	return err == nil
}

func TestImageRules(t *testing.T) {
	tests := []struct {
		template string
		want     bool
	}{
		{"reg/img:1", true},
		{"reg:5000/img", false},
		{"reg:5000/img@sha256:0", true},
		{"img", false},
		{"reg/img:${KERNEL_FULL_VERSION}", true},
		{"reg:5000/${KERNEL_XYZ}", false},
		{"reg/img${KERNEL_X:-1}", false},
		{"reg/img${TAG:-:1}", true},
		{"reg/img${TAG-@sha256:0}", true},
		{"reg/img${MOD_NAME:+:1}", true},
		{"reg:1/img${TAG:-/}", false},
		{"reg/img:$$", true},
		{"reg/img:$", true},
		{"reg/img:${X", false},
		{"reg/img:$${X", true},
		{"oci:/srv/img", true},
		{"oci-archive:/srv/img.tar", true},
	}
	formed, tagged := imageRules(t)
	for _, tt := range tests {
		t.Run(tt.template, func(t *testing.T) {
			assert.Equal(t, tt.want, formed.MatchString(tt.template) && tagged.MatchString(tt.template), "the rules")
			assert.Equal(t, tt.want, nodeTakes(tt.template), "the node")
		})
	}
}

// TestImageRulesRefuseNothingGood: whatever a node takes, the API server takes.
// Left out is what the library reads in ways nobody expects: braces in braces, and
// what follows a variable in a default (it loses a character).
func TestImageRulesRefuseNothingGood(t *testing.T) {
	formed, tagged := imageRules(t)
	random := rand.New(rand.NewPCG(1, 2))
	taken := 0
	for range 50_000 {
		template := someOf(random, "a", "é", "/", "/", ":", "@", "-", "+", "}", "$", "$$", "$NO", "$KERNEL_X", "${NO}", "${MOD_NAME}",
			"${"+someVariable(random)+"}", "${"+someVariable(random)+"}")
		if nodeTakes(template) {
			taken++
			require.True(t, formed.MatchString(template), "%q", template)
			require.True(t, tagged.MatchString(template), "%q", template)
		}
	}
	assert.Greater(t, taken, 10_000)
}

// someVariable is one with a default or an alternative.
func someVariable(random *rand.Rand) string {
	names, operators := []string{"NO", "KERNEL_X"}, []string{":-", ":+", ":=", "-", "+", "="}
	return names[random.IntN(len(names))] + operators[random.IntN(len(operators))] + someOf(random, "a", "/", ":", "@", "-", "=") + []string{"", "$NO"}[random.IntN(2)]
}

func someOf(random *rand.Rand, tokens ...string) string {
	var b strings.Builder
	for range 1 + random.IntN(7) {
		b.WriteString(tokens[random.IntN(len(tokens))])
	}
	return b.String()
}
