// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestExternalSuites: every test that the page names is there, and every row names
// one or says why there is none.
func TestExternalSuites(t *testing.T) {
	text, err := os.ReadFile("external-suites.md")
	require.NoError(t, err)
	directory := regexp.MustCompile("`([a-z0-9/]+)`([^`]*)")
	test := regexp.MustCompile(`\b(?:Test|Fuzz)\w+`)
	rows, named := 0, 0
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(line, "|")
		if len(cells) != 5 || strings.Contains(line, "---") || strings.TrimSpace(cells[1]) == "case" {
			continue
		}
		rows++
		found := directory.FindAllStringSubmatch(cells[3], -1)
		assert.True(t, len(found) > 0 || strings.Contains(cells[3], "does not apply"), "no test and no reason: %s", line)
		for _, d := range found {
			sources := testsOf(t, d[1])
			for _, name := range test.FindAllString(d[2], -1) {
				named++
				assert.Contains(t, sources, "\nfunc "+name+"(", "%s has no %s", d[1], name)
			}
		}
	}
	assert.Greater(t, rows, 60)
	assert.Greater(t, named, 150)
}

// testsOf are the texts of all tests in a directory.
func testsOf(t *testing.T, dir string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("..", dir, "*_test.go"))
	require.NoError(t, err)
	require.NotEmpty(t, files, dir)
	var all strings.Builder
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		all.Write(text)
	}
	return all.String()
}
