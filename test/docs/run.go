// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// patience is how long a command may take, emulated.
const patience = 5 * time.Minute

// Reader does what pages say, as somebody would who reads them: one command after
// the other, in one shell.
type Reader struct {
	Shell *Shell
	Dir   string // where Shell began
	Root  string // leads to the repository
	// Words are put in the place of placeholders such as NODE.
	Words map[string]string
	// Before is called with each command, and may change it. What it takes over, and
	// returns false for, is not run. Nil: all is run as it stands.
	Before func(*testing.T, *Command) (run bool)
	// Elsewhere is called with each block that another lab runs. Nil: it is left out.
	Elsewhere func(Block)
}

// Read does what the blocks of a page say that are for a lab. A command that fails,
// or prints something else than the page has, ends the test.
func (r *Reader) Read(t *testing.T, path, lab string) {
	t.Helper()
	page, err := Read(r.Root, path)
	require.NoError(t, err)
	done := 0
	for _, b := range page.Blocks {
		if b.Lab != lab {
			if r.Elsewhere != nil {
				r.Elsewhere(b)
			}
			continue
		}
		done++
		if b.File != "" {
			r.write(t, b)
			continue
		}
		commands, err := b.Commands()
		require.NoError(t, err)
		for _, c := range commands {
			r.Run(t, c)
		}
	}
	require.Positive(t, done, "%s has no block for the lab %s", path, lab)
}

// write writes a file that the page has.
func (r *Reader) write(t *testing.T, b Block) {
	t.Helper()
	path := b.File
	if !filepath.IsAbs(path) {
		path = filepath.Join(r.Dir, path)
	}
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, os.WriteFile(path, []byte(Command{Text: b.Text}.With(r.Words).Text), 0o644))
}

// Run is Read for one command.
func (r *Reader) Run(t *testing.T, c Command) {
	t.Helper()
	c = c.With(r.Words)
	if r.Before != nil && !r.Before(t, &c) {
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	began := time.Now()
	output, code, err := r.Shell.Run(ctx, c.Text)
	t.Logf("%s (%.1f s)\n%s", c, time.Since(began).Seconds(), output)
	require.NoError(t, err, "%s\n%s", c, output)
	require.Zero(t, code, "%s\n%s", c, output)
	if c.Says {
		require.True(t, Pattern(c.Want).MatchString(line(output)), "%s: the page has\n%s\nand this is printed\n%s", c, c.Want, output)
	}
}

// line ends an output as a line ends, if there is any.
func line(output string) string {
	if output == "" || strings.HasSuffix(output, "\n") {
		return output
	}
	return output + "\n"
}

// gap stands in an output for what is not always the same: within a line, or for
// lines, of which there may be none.
const gap = "..."

// Pattern matches what a page has as an output.
func Pattern(want string) *regexp.Regexp {
	pattern := `\A`
	for line := range strings.Lines(want) {
		line = strings.TrimRight(line, " \n")
		if line == gap {
			pattern += `(?:.*\n)*`
		} else {
			pattern += strings.ReplaceAll(regexp.QuoteMeta(line), regexp.QuoteMeta(gap), `.*`) + ` *\n`
		}
	}
	return regexp.MustCompile(pattern + `\z`)
}
