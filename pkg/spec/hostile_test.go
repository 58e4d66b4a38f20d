// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestHostileMappings: an expression that would keep a backtracking engine busy for ever has its answer at once, and one that
// would need all memory is refused.
func TestHostileMappings(t *testing.T) {
	const release = "6.1.0-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	for _, tt := range []struct {
		name, regexp string
		refused      bool
	}{
		{"nested repetition", `^6\.1\.0-(a+)+$x`, false},
		{"repeated alternatives", `^6\.1\.0-(a|a|aa)+$x`, false},
		{"overlapping groups", `^6\.1\.0-(([a-z])+.)+[A-Z]([a-z])+$x`, false},
		{"repetition of repetition", `((a{1000}){1000}){1000}`, true},
		{"too deep", strings.Repeat("(", 2000) + "a" + strings.Repeat(")", 2000), true},
		{"backreference", `(a)\1`, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			modules, _, err := Parse("x.yaml", fmt.Appendf(nil, `{apiVersion: kmm.sigs.x-k8s.io/v1beta1, kind: Module, metadata: {name: m}, spec: {moduleLoader: {container: {
modprobe: {moduleName: m}, kernelMappings: [{regexp: %q, containerImage: "r/i:1"}]}}}}`, tt.regexp))
			if tt.refused {
				require.ErrorIs(t, err, ErrInvalid)
				return
			}
			require.NoError(t, err)
			_, err = modules[0].For(release)
			assert.ErrorIs(t, err, ErrNoMapping)
		})
	}
}

// TestHostileTemplates: a template is text and variables; nothing is run, and its depth is nobody's stack.
func TestHostileTemplates(t *testing.T) {
	deep := strings.Repeat("${A:-", 20000) + "x" + strings.Repeat("}", 20000)
	t.Setenv("KMMD_TEST_SECRET", "Tops3cret")
	for template, want := range map[string]string{
		"r/i:" + deep:                  "",
		"r/i:$(id)":                    "r/i:$(id)",
		"r/i:`id`":                     "r/i:`id`",
		"r/i:${KMMD_TEST_SECRET}x":     "r/i:x", // not of the environment
		"r/i:${KERNEL_FULL_VERSION}/x": "r/i:6.1.0/x",
	} {
		got, _, err := Expand(template, "6.1.0", "m", "ns")
		if want != "" {
			require.NoError(t, err)
			assert.Equal(t, want, got)
		}
	}
}
