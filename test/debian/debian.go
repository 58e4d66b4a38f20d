// SPDX-License-Identifier: Apache-2.0

// Package debian gives tests what set-up has put on this machine: the kernels of a
// distribution, which are no part of the repository, and its registry. KMMD_LAB
// names where; `make unit` sets it once set-up has run. Without it the tests that
// ask for any of this are skipped, and `make test` never is without it.
package debian

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Dir is the lab's directory. It skips the test without one.
func Dir(t testing.TB) string {
	t.Helper()
	dir := os.Getenv("KMMD_LAB")
	if dir == "" {
		t.Skip("KMMD_LAB is not set: it names the directory with what `make test` sets up")
	}
	return dir
}

// Kernels are the releases of the kernels below the lab's directory.
func Kernels(t testing.TB) (dir string, releases []string) {
	t.Helper()
	dir = Dir(t)
	data, err := os.ReadFile(filepath.Join(dir, "kernels"))
	require.NoError(t, err)
	for line := range strings.Lines(string(data)) {
		if fields := strings.Fields(line); len(fields) == 2 {
			releases = append(releases, fields[1])
		}
	}
	require.Len(t, releases, 2, "two kernels in the lab")
	return dir, releases
}

var listening = regexp.MustCompile(`listening on (127\.0\.0\.1:[0-9]+)`)

// Registry runs Debian's docker-registry until the test has ended, with its images in
// that directory and more of a configuration, which says "127.0.0.1:0" where to
// listen; host is where it does.
func Registry(t testing.TB, storage, more string) (host string) {
	t.Helper()
	Dir(t)
	config := filepath.Join(t.TempDir(), "config.yml")
	text := "version: 0.1\nlog: {level: info}\nstorage: {filesystem: {rootdirectory: " + storage + "}}\n" + more
	require.NoError(t, os.WriteFile(config, []byte(text), 0o600))
	cmd := exec.Command("docker-registry", "serve", config)
	out, err := cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		require.NoError(t, cmd.Process.Kill(), "it runs to the end")
		_ = cmd.Wait() // killed
	})
	lines := bufio.NewScanner(out)
	var log strings.Builder
	for lines.Scan() {
		log.WriteString(lines.Text() + "\n")
		if m := listening.FindStringSubmatch(lines.Text()); m != nil {
			go func() { // it must not wait for a reader
				for lines.Scan() {
				}
			}()
			return m[1]
		}
	}
	require.Fail(t, "docker-registry does not start", log.String())
	return ""
}
