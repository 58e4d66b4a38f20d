// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestPatterns holds what looks at names and templates against patterns that say the same.
func TestPatterns(t *testing.T) {
	for _, tt := range []struct {
		name, pattern, begin string
		is                   func(string) bool
	}{
		{"object name", `^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$`, "", isObjectName},
		{"object name, longer", `^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$`, "a-", isObjectName},
		{"module name", `^[A-Za-z0-9_-]{1,55}$`, "", isModuleName},
		{"long module name", `^[A-Za-z0-9_-]{1,55}$`, strings.Repeat("m", 52), isModuleName},
		{"template", `(?s)\$\{.*\$\{?_([^\pL\p{Nd}_]|$)`, "", endless},
		{"template with a variable", `(?s)\$\{.*\$\{?_([^\pL\p{Nd}_]|$)`, "${", endless},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			pattern, yes := regexp.MustCompile(tt.pattern), 0
			var try func(s string, more int)
			try = func(s string, more int) {
				require.Equal(t, pattern.MatchString(s), tt.is(s), "%q", s)
				if tt.is(s) {
					yes++
				}
				if more == 0 {
					return
				}
				for _, part := range []string{"$", "{", "}", "_", "-", ".", "/", "a", "Z", "é", "7", "٣", "Ⅷ", "\n", "\xff"} {
					try(s+part, more-1)
				}
			}
			try(tt.begin, 4)
			require.NotZero(t, yes)
		})
	}
}
