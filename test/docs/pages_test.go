// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const root = "../.."

func pages(t *testing.T) []*Page {
	t.Helper()
	all, err := All(root)
	require.NoError(t, err)
	require.Greater(t, len(all), 40)
	return all
}

// languages of blocks that have no commands.
var languages = []string{"text", "yaml", "toml", "c", "dockerfile"}

// TestEachBlockIsRun: all commands stand in blocks that name the lab that runs
// them, and each lab reads the pages that have something for it.
func TestEachBlockIsRun(t *testing.T) {
	labs, used := Labs(), map[string][]string{}
	for _, p := range pages(t) {
		for _, b := range p.Blocks {
			where := fmt.Sprintf("%s:%d", b.Page, b.Line)
			commands, err := b.Commands()
			require.NoError(t, err)
			if len(commands) == 0 && b.File == "" {
				assert.Contains(t, languages, b.Language, "%s: this block is in none of these languages, nor in sh or console", where)
				assert.Empty(t, b.Lab, "%s: a lab for what is no command", where)
				continue
			}
			lab, ok := labs[b.Lab]
			if !assert.True(t, ok, "%s: no lab runs this: behind the language has to stand which of labs.go does", where) {
				continue
			}
			assert.Contains(t, lab.Pages, p.Path, "%s: the lab %s does not read this page", where, b.Lab)
			used[b.Lab] = append(used[b.Lab], p.Path)
		}
	}
	for name, lab := range labs {
		for _, page := range lab.Pages {
			assert.Contains(t, used[name], page, "lab %s: there is nothing for it on this page", name)
		}
		assert.True(t, contains(t, lab.Package, lab.Runner), "lab %s: %s has no %q", name, lab.Package, lab.Runner)
	}
}

// contains is whether a file of a directory has a text.
func contains(t *testing.T, dir, text string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, dir, "*"))
	require.NoError(t, err)
	return slices.ContainsFunc(files, func(name string) bool {
		data, err := os.ReadFile(name)
		return err == nil && strings.Contains(string(data), text)
	})
}

// notInTest are targets of make that neither `make test` nor .ci/run comes to: they
// take long, or go on until somebody ends them, or are what release-test tests.
var notInTest = []string{"again", "bench", "bench-images", "bench-node", "bench-cluster", "cluster", "e2e", "faults", "fuzz", "help", "images", "packages", "release-test", "setup-e2e", "soak", "vuln"}

// TestMake: there are these targets, with these variables; and the tests that are
// run by themselves.
func TestMake(t *testing.T) {
	makefile := read(t, "Makefile")
	has := func(text string) bool { return strings.Contains(makefile, text) }
	run := makefile[strings.Index(makefile, "\ntest:"):strings.Index(makefile, "\nunit:")] + read(t, ".ci/run")
	run += makefile[strings.Index(makefile, "\nlab:"):strings.Index(makefile, "\ncluster-test:")]
	calls, err := Calls(pages(t), "make")
	require.NoError(t, err)
	require.NotEmpty(t, calls)
	for _, c := range calls {
		for _, arg := range c.Args[1:] {
			if name, _, ok := strings.Cut(arg, "="); ok {
				assert.True(t, has("$("+name+")"), "%s: the Makefile has no such variable", c.Command)
				continue
			}
			if arg == "-C" { // somebody else's Makefile
				break
			}
			assert.True(t, has("\n"+arg+":"), "%s: the Makefile has no such target", c.Command)
			if !slices.Contains(notInTest, arg) {
				assert.True(t, regexp.MustCompile(`\b`+arg+`\b`).MatchString(run), "%s: make test does not come to it", c.Command)
			}
		}
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, path))
	require.NoError(t, err)
	return string(data)
}

// TestGoTest: packages, and tests and benchmarks by name, are there.
func TestGoTest(t *testing.T) {
	calls, err := Calls(pages(t), "go")
	require.NoError(t, err)
	require.NotEmpty(t, calls)
	for _, c := range calls {
		require.Equal(t, "test", c.Args[1], c.Command)
		dir := c.Args[len(c.Args)-1]
		if strings.HasSuffix(dir, "/...") {
			dir = strings.TrimSuffix(dir, "/...")
		} else if !strings.HasPrefix(dir, "./") {
			dir = "."
		}
		assert.DirExists(t, filepath.Join(root, dir), c.Command)
		for i, arg := range c.Args {
			kind := map[string]string{"-run": "Test", "-bench": "Benchmark"}[arg]
			if kind != "" && c.Args[i+1] != "^$" {
				name := "func " + kind + strings.TrimPrefix(c.Args[i+1], kind)
				assert.True(t, contains(t, dir, name), "%s: there is no %s", c.Command, name)
			}
		}
	}
}

// TestScripts: what is named by its path is there, and can be run.
func TestScripts(t *testing.T) {
	script := regexp.MustCompile(`^(?:\.lab|test|tools|\.ci)/[\w/-]+`)
	for _, p := range pages(t) {
		for _, s := range p.Spans {
			if path := script.FindString(s.Text); path != "" && strings.Contains(s.Text, " ") && !strings.HasPrefix(path, ".lab") {
				info, err := os.Stat(filepath.Join(root, path))
				if assert.NoError(t, err, "%s:%d", s.Page, s.Line) {
					assert.NotZero(t, info.Mode()&0o111, "%s:%d", s.Page, s.Line)
				}
			}
		}
	}
}
