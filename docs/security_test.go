// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var named = regexp.MustCompile("`([a-z/]+)\\.((?:Test|Fuzz)[A-Za-z0-9_]+)`")

// TestThreatsHaveTests: each threat has a defence and tests that are there, or says that it is not prevented; each actor has
// threats.
func TestThreatsHaveTests(t *testing.T) {
	text, err := os.ReadFile("security.md")
	require.NoError(t, err)
	sections := strings.Split(string(text), "\n## ")[1:]
	require.GreaterOrEqual(t, len(sections), 8)
	for _, section := range sections {
		title, body, _ := strings.Cut(section, "\n")
		rows := 0
		for line := range strings.Lines(body) {
			cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), " | ")
			if !strings.HasPrefix(line, "|") || strings.HasPrefix(line, "|---") || strings.HasPrefix(line, "| threat ") {
				continue
			}
			rows++
			require.GreaterOrEqual(t, len(cells), 2, line)
			tests := named.FindAllStringSubmatch(line, -1)
			if strings.Contains(line, "not prevented") && len(tests) == 0 {
				continue
			}
			assert.NotEmpty(t, tests, "%s: nothing shows it: %s", title, line)
			assert.NotEmpty(t, strings.TrimSpace(cells[1]), line)
			for _, test := range tests {
				assert.True(t, isThere(t, test[1], test[2]), "%s: no test %s in %s", title, test[2], test[1])
			}
			assert.Len(t, tests, strings.Count(line, ".Test")+strings.Count(line, ".Fuzz"), "a name that is none: %s", line)
		}
		assert.GreaterOrEqual(t, rows, 3, title)
	}
}

func isThere(t *testing.T, dir, name string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("..", dir, "*_test.go"))
	require.NoError(t, err)
	return slices.ContainsFunc(files, func(file string) bool {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		return strings.Contains(string(text), "func "+name+"(")
	})
}
