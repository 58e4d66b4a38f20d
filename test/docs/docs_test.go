// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const sample = "# Title\n\nRun `kmmd why NAME` or\n`kmmd image\nls`, but not `kmmd …`.\n\n" +
	"```sh node\ncd /tmp # a remark\ncat >x <<'EOF'\n$ not run\nEOF\nkubectl exec POD -- kmmd status | \\\n    grep \"a b\"\n```\n\n" +
	"- in a list:\n\n  ```console host\n  $ echo one\n  one\n  $ true\n  ```\n\n```yaml node:/etc/x.yaml\na: 1\n```\n\n    indented\n\n```\nplain\n```\n"

func readSample(t *testing.T, text string) *Page {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "x.md"), []byte(text), 0o644))
	p, err := Read(dir, "x.md")
	require.NoError(t, err)
	return p
}

func TestRead(t *testing.T) {
	p := readSample(t, sample)
	require.Len(t, p.Blocks, 5)
	assert.Equal(t, Block{"x.md", 8, "sh", "node", "", "cd /tmp # a remark\ncat >x <<'EOF'\n$ not run\nEOF\nkubectl exec POD -- kmmd status | \\\n    grep \"a b\"\n"}, p.Blocks[0])
	assert.Equal(t, Block{"x.md", 19, "console", "host", "", "$ echo one\none\n$ true\n"}, p.Blocks[1])
	assert.Equal(t, Block{"x.md", 25, "yaml", "node", "/etc/x.yaml", "a: 1\n"}, p.Blocks[2])
	assert.Equal(t, Block{"x.md", 28, "", "", "", "indented\n"}, p.Blocks[3])
	assert.Equal(t, Block{"x.md", 31, "", "", "", "plain\n"}, p.Blocks[4])
	assert.Equal(t, []Span{{"x.md", 3, "kmmd why NAME"}, {"x.md", 4, "kmmd image ls"}, {"x.md", 5, "kmmd …"}}, p.Spans)
}

func TestCommands(t *testing.T) {
	p := readSample(t, sample)
	commands, err := p.Blocks[0].Commands()
	require.NoError(t, err)
	require.Len(t, commands, 3)
	assert.Equal(t, "cd /tmp # a remark", commands[0].Text)
	assert.Equal(t, "cat >x <<'EOF'\n$ not run\nEOF", commands[1].Text)
	assert.Equal(t, 12, commands[2].Line)
	calls, err := commands[2].With(map[string]string{"POD": "kmmd-x"}).Calls()
	require.NoError(t, err)
	assert.Equal(t, [][]string{{"kubectl", "exec", "kmmd-x", "--", "kmmd", "status"}, {"kmmd", "status"}, {"grep", "a b"}}, calls)

	commands, err = p.Blocks[1].Commands()
	require.NoError(t, err)
	assert.Equal(t, []Command{{"x.md", 19, "echo one", "one\n", true}, {"x.md", 21, "true", "", true}}, commands)

	for _, text := range []string{"```sh\nif true\n```\n", "```console\nno prompt\n```\n", "```console\n$ a; b\n```\n"} {
		_, err := readSample(t, text).Blocks[0].Commands()
		assert.ErrorContains(t, err, "x.md:2", text)
	}
}

func TestCalls(t *testing.T) {
	p := readSample(t, sample)
	calls, err := Calls([]*Page{p}, "kmmd")
	require.NoError(t, err)
	var all []string
	for _, c := range calls {
		all = append(all, fmt.Sprintf("%d %v %v", c.Command.Line, c.Args, c.Inline))
	}
	assert.Equal(t, []string{"12 [kmmd status] false", "3 [kmmd why NAME] true", "4 [kmmd image ls] true"}, all)
}

func TestPattern(t *testing.T) {
	for _, tt := range []struct {
		want, said string
		ok         bool
	}{
		{"one\n", "one", true},
		{"one\n", "one\n", true},
		{"one\n", "one two\n", false},
		{"one\n", "one\ntwo\n", false},
		{"a (b) ... d\n", "a (b) c c d\n", true},
		{"a ... d\n", "a b\nc d\n", false},
		{"first\n...\nlast\n", "first\n1\n2\nlast\n", true},
		{"first\n...\nlast\n", "first\nlast\n", true},
		{"first\n...\nlast\n", "first\n1\n2\n", false},
		{"...\nlast\n", "last\n", true},
		{"", "", true},
		{"", "something", false},
	} {
		assert.Equal(t, tt.ok, Pattern(tt.want).MatchString(line(tt.said)), "%q %q", tt.want, tt.said)
	}
}

func TestShell(t *testing.T) {
	dir := t.TempDir()
	s, err := NewShell(dir, "OF=env")
	require.NoError(t, err)
	defer s.Close()
	run := func(text string) (string, int) {
		t.Helper()
		out, code, err := s.Run(t.Context(), text)
		require.NoError(t, err)
		return out, code
	}
	out, code := run("mkdir a && cd a # and stay there")
	assert.Empty(t, out)
	assert.Zero(t, code)
	run("x=$OF")
	out, _ = run("cat <<EOF\n$x in ${PWD##*/}\nEOF")
	assert.Equal(t, "env in a\n", out)
	out, code = run("echo wrong >&2; false")
	assert.Equal(t, "wrong\n", out)
	assert.Equal(t, 1, code)
	out, _ = run("cat; echo 'nothing to read'")
	assert.Equal(t, "nothing to read\n", out)
	_, _, err = s.Run(t.Context(), "exit 3")
	assert.ErrorContains(t, err, "the shell has ended")

	s, err = NewShell(dir)
	require.NoError(t, err)
	defer s.Close()
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(io.ErrNoProgress)
	_, _, err = s.Run(ctx, "exec tail -f /dev/null")
	assert.ErrorIs(t, err, io.ErrNoProgress)
}

// TestInternet: a program that is told of the proxy reaches the hosts that are
// there, by their names, and no other.
func TestInternet(t *testing.T) {
	n := NewInternet(t, map[string]http.Handler{
		"registry.example": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "hello from "+r.Host) }),
	})
	ask := func(url string) (string, error) {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=TestAsk")
		cmd.Env = append(os.Environ(), append(n.Env, "KMMD_ASK="+url)...)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	out, err := ask("https://registry.example/v2/")
	require.NoError(t, err, out)
	assert.Contains(t, out, "hello from registry.example")
	out, err = ask("https://elsewhere.example/")
	require.Error(t, err)
	assert.Contains(t, out, "Bad Gateway")
	n.Cut("registry.example")
	_, err = ask("https://registry.example/v2/")
	require.Error(t, err)
}

// TestAsk is the program of TestInternet.
func TestAsk(t *testing.T) {
	url := os.Getenv("KMMD_ASK")
	if url == "" {
		return
	}
	res, err := http.Get(url)
	require.NoError(t, err)
	defer res.Body.Close()
	text := new(strings.Builder)
	_, err = io.Copy(text, res.Body)
	require.NoError(t, err)
	fmt.Println(text)
}
