// SPDX-License-Identifier: Apache-2.0

package images

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestMatchPart has what busybox ash 1.35 does with a file of that name in an
// otherwise empty directory, but that "?" is one character here, and one byte there.
func TestMatchPart(t *testing.T) {
	tests := []struct {
		part     string
		yes, not []string
	}{
		{"*.ko", []string{"a.ko", "ab.c.ko"}, []string{".ko", ".a.ko", "a.kox", "a.KO"}},
		{"*", []string{"a", "a.b", "-"}, []string{".a"}},
		{".*", []string{".a"}, []string{"a"}},
		{`\.a*`, []string{".ab"}, []string{"ab"}},
		{"?", []string{"a", "ä", "*"}, []string{"", "ab", "."}},
		{"?.ko", []string{"a.ko"}, []string{"..ko", ".ko"}},
		{"[ab].ko", []string{"a.ko", "b.ko"}, []string{"c.ko", "ab.ko"}},
		{"[!ab].ko", []string{"c.ko", "^.ko", "!.ko"}, []string{"a.ko", "..ko"}},
		{"[^ab].ko", []string{"c.ko"}, []string{"a.ko"}},
		{"[a-c]x", []string{"ax", "bx", "cx"}, []string{"dx", "-x", "Bx"}},
		{"[!a-c]x", []string{"dx", "-x"}, []string{"ax", "cx"}},
		{"[a-]x", []string{"ax", "-x"}, []string{"bx"}},
		{"[-a]x", []string{"ax", "-x"}, []string{"bx"}},
		{"[a-c-e]x", []string{"bx", "-x", "ex"}, []string{"dx"}},
		{"[]a]x", []string{"]x", "ax"}, []string{"bx"}},
		{"[!]a]x", []string{"bx"}, []string{"]x", "ax"}},
		{"[a^]x", []string{"^x", "ax"}, []string{"bx"}},
		{`[\]a]x`, []string{"]x", "ax"}, []string{`\x`}},
		{"[[:digit:]]x", []string{"1x"}, []string{"ax", ":x"}},
		{"[[:alpha:]_]x", []string{"ax", "_x"}, []string{"1x"}},
		{"[x", []string{"[x"}, []string{"x"}},
		{"a[", []string{"a["}, []string{"a"}},
		{"[!", []string{"[!"}, nil},
		{`\*`, []string{"*"}, []string{"a"}},
		{`a\`, []string{`a\`}, []string{"a"}},
		{"[.]a", nil, []string{".a"}},
		{"nvidia-{drm,uvm}.ko", []string{"nvidia-{drm,uvm}.ko"}, []string{"nvidia-drm.ko"}},
		{"ä*", []string{"äb"}, []string{"ab"}},
	}
	for _, tt := range tests {
		for _, name := range tt.yes {
			assert.True(t, matchPart(tt.part, name), "%q has to match %q", tt.part, name)
		}
		for _, name := range tt.not {
			assert.False(t, matchPart(tt.part, name), "%q must not match %q", tt.part, name)
		}
	}
}

func TestLiteral(t *testing.T) {
	for part, want := range map[string]string{"a.ko": "a.ko", `a\*b`: "a*b", `a\`: `a\`, "]": "]"} {
		got, ok := literal(part)
		assert.True(t, ok, part)
		assert.Equal(t, want, got)
	}
	for _, part := range []string{"*", "a?", "[a]", `\\*`} {
		_, ok := literal(part)
		assert.False(t, ok, part)
	}
}

func TestParseGlob(t *testing.T) {
	g, err := ParseGlob("/opt//lib/./*.ko")
	require.NoError(t, err)
	assert.Equal(t, "/opt//lib/./*.ko", g.String())
	assert.Equal(t, []string{"opt", "lib", "*.ko"}, g.parts)
	for pattern, why := range map[string]string{
		"": "no absolute path", "a.ko": "no absolute path", "/": "names no file", "/a/../b": "..", "/" + strings.Repeat("x", 5000): "longer",
	} {
		_, err := ParseGlob(pattern)
		assert.ErrorContains(t, err, why, pattern)
	}
}

func FuzzMatchPart(f *testing.F) {
	f.Add("[!a-z]*.ko", "1.ko")
	f.Add(`[\`, "[")
	f.Fuzz(func(t *testing.T, part, name string) {
		_ = matchPart(part, name)
		if lit, ok := literal(part); ok && lit != "" && !strings.ContainsAny(part, `/\`) && !strings.Contains(name, "/") {
			assert.True(t, matchPart(part, lit), "%q is itself", part)
		}
	})
}
