// SPDX-License-Identifier: Apache-2.0

// Package release has the tests of what make images and make packages have made.
// make release-test runs them.
package release

import (
	"bytes"
	"crypto/sha256"
	"debug/buildinfo"
	"debug/elf"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const repository = "../.."

// dist is what was made.
func dist(t *testing.T, elements ...string) string {
	t.Helper()
	dir := os.Getenv("KMMD_DIST")
	require.NotEmpty(t, dir, "KMMD_DIST is the directory of what was made: make release-test sets it")
	return filepath.Join(append([]string{dir}, elements...)...)
}

func output(t *testing.T, dir string, words ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), words[0], words[1:]...)
	var stderr bytes.Buffer
	cmd.Dir, cmd.Stderr = dir, &stderr
	b, err := cmd.Output()
	require.NoError(t, err, "%s: %s%s", strings.Join(words, " "), b, stderr.String())
	return string(b)
}

// packages are those of a kind, by Go's word for the architecture.
func packages(t *testing.T, kind string) map[string]string {
	t.Helper()
	m := map[string]string{}
	for _, word := range [][2]string{{"amd64", "amd64"}, {"amd64", "x86_64"}, {"arm64", "arm64"}, {"arm64", "aarch64"}} {
		files, err := filepath.Glob(dist(t, "packages", "*"+word[1]+"."+kind))
		require.NoError(t, err)
		if len(files) > 0 {
			m[word[0]] = files[0]
		}
	}
	require.Len(t, m, 2, "packages of kind %s", kind)
	return m
}

// inBoth are files that a package of either kind has.
var inBoth = []string{
	"/usr/bin/kmmd", "/usr/lib/systemd/system/kmmd.service", "/usr/lib/systemd/system/kmmd-early.service",
	"/etc/kmmd/kmmd.toml", "/etc/kmmd/modules.d", "/usr/share/man/man1/kmmd.1.gz", "/usr/share/man/man1/kmmd-run.1.gz",
	"/usr/share/bash-completion/completions/kmmd", "/usr/share/fish/vendor_completions.d/kmmd.fish",
}

func TestDeb(t *testing.T) {
	for arch, file := range packages(t, "deb") {
		var paths []string
		for line := range strings.Lines(output(t, "", "dpkg-deb", "-c", file)) {
			f := strings.Fields(line)
			require.GreaterOrEqual(t, len(f), 6, line)
			assert.Equal(t, "root/root", f[1], line)
			assert.NotContains(t, f[0][4:], "w", "only root writes: %s", line)
			paths = append(paths, strings.TrimSuffix(strings.TrimPrefix(f[5], "."), "/"))
		}
		for _, path := range append([]string{"/usr/share/zsh/vendor-completions/_kmmd", "/usr/share/doc/kmmd/copyright"}, inBoth...) {
			assert.Contains(t, paths, path)
		}
		assert.Equal(t, "kmmd "+arch, output(t, "", "dpkg-deb", "--show", "--showformat=${Package} ${Architecture}", file))
		control := t.TempDir()
		output(t, "", "dpkg-deb", "-e", file, control)
		conffiles, err := os.ReadFile(filepath.Join(control, "conffiles"))
		require.NoError(t, err)
		assert.Equal(t, "/etc/kmmd/kmmd.toml\n", string(conffiles))
	}
}

func TestRPM(t *testing.T) {
	for arch, file := range packages(t, "rpm") {
		query := func(words ...string) string {
			return output(t, "", append(append([]string{"rpm", "--dbpath", t.TempDir(), "-qp", "--nosignature"}, words...), file)...)
		}
		paths := strings.Split(query("-l"), "\n")
		for _, path := range append([]string{"/usr/share/zsh/site-functions/_kmmd", "/usr/share/licenses/kmmd/LICENSE"}, inBoth...) {
			assert.Contains(t, paths, path)
		}
		assert.Equal(t, "/etc/kmmd/kmmd.toml\n", query("-c"), "configuration")
		assert.Equal(t, map[string]string{"amd64": "kmmd x86_64", "arm64": "kmmd aarch64"}[arch], query("--qf", "%{NAME} %{ARCH}"))
		assert.Contains(t, query("--qf", "[%{FILEFLAGS:fflags} %{FILENAMES}\n]"), "cn /etc/kmmd/kmmd.toml", "is kept in an upgrade")
	}
}

// What ships is the program that the version of the package names, for its machine.
func TestProgramOfPackage(t *testing.T) {
	for arch, file := range packages(t, "deb") {
		root := t.TempDir()
		output(t, "", "dpkg-deb", "-x", file, root)
		info, err := buildinfo.ReadFile(filepath.Join(root, "usr/bin/kmmd"))
		require.NoError(t, err)
		for _, s := range info.Settings {
			if s.Key == "GOARCH" {
				assert.Equal(t, arch, s.Value)
			}
		}
		commit := regexp.MustCompile(`[0-9a-f]{12}|v?[0-9]+\.[0-9]+\.[0-9]+`).FindString(strings.TrimPrefix(info.Main.Version, "v0.0.0-"))
		assert.Contains(t, output(t, "", "dpkg-deb", "-f", file, "Version"), strings.TrimPrefix(commit, "v"))
	}
}

// systemd takes the units as they are in the package, and they can do little more
// than they need: docs/packages.md says the score.
func TestUnits(t *testing.T) {
	root := t.TempDir()
	output(t, "", "dpkg-deb", "-x", packages(t, "deb")["amd64"], root)
	units := filepath.Join(root, "usr/lib/systemd/system")
	targets, err := filepath.Glob("/lib/systemd/system/*.target")
	require.NoError(t, err)
	for _, file := range targets {
		output(t, "", "cp", "-n", file, units)
	}
	for _, unit := range []string{"kmmd.service", "kmmd-early.service"} {
		file := filepath.Join(units, unit)
		cmd := exec.CommandContext(t.Context(), "systemd-analyze", "--root="+root, "--man=no", "--recursive-errors=no", "verify", unit)
		b, err := cmd.CombinedOutput()
		assert.NoError(t, err, "%s", b)
		assert.Empty(t, string(b))
		output(t, "", "systemd-analyze", "--no-pager", "security", "--offline=true", "--threshold=39", file)
	}
}

// The bill of materials of an image names all modules of the program in it.
func TestBillsOfMaterials(t *testing.T) {
	for _, name := range []string{"kmmd", "kmm-watcher"} {
		for _, arch := range []string{"amd64", "arm64"} {
			b, err := os.ReadFile(dist(t, "images", name+".linux-"+arch+".spdx.json"))
			require.NoError(t, err)
			var bill struct {
				Packages []struct {
					Name    string `json:"name"`
					Version string `json:"versionInfo"`
				} `json:"packages"`
			}
			require.NoError(t, json.Unmarshal(b, &bill))
			versions := map[string]string{}
			for _, p := range bill.Packages {
				versions[p.Name] = p.Version
			}
			modules := 0
			for line := range strings.Lines(output(t, "", "go", "version", "-m", dist(t, "bin", arch, name))) {
				f := strings.Fields(line)
				if f[0] == "dep" || f[0] == "mod" {
					modules++
					assert.Equal(t, f[2], versions[f[1]], "%s of %s for %s", f[1], name, arch)
				}
			}
			assert.Greater(t, modules, 30)
			assert.Contains(t, versions, "stdlib")
		}
	}
}

// The same commit makes the same, also in another directory, and what is not committed there is left out.
func TestTheSameTwice(t *testing.T) {
	again, elsewhere := t.TempDir(), filepath.Join(t.TempDir(), "elsewhere")
	root, err := filepath.Abs(repository)
	require.NoError(t, err)
	output(t, "", "git", "clone", "-q", "--shared", root, elsewhere)
	for _, file := range []string{"cmd/kmmd/main.go", "cmd/kmm-watcher/main.go", "deploy/systemd/kmmd.service"} {
		require.NoError(t, os.WriteFile(filepath.Join(elsewhere, file), []byte("not committed"), 0o644))
	}
	output(t, elsewhere, "make", "images", "packages", "DIST="+again)
	for _, pattern := range []string{"bin/*/*", "packages/*", "images/*.json", "images/*/index.json"} {
		files, err := filepath.Glob(dist(t, pattern))
		require.NoError(t, err)
		require.NotEmpty(t, files, pattern)
		for _, file := range files {
			relative, err := filepath.Rel(dist(t), file)
			require.NoError(t, err)
			assert.Equal(t, sum(t, file), sum(t, filepath.Join(again, relative)), relative)
		}
	}
}

// The programs need no library, carry no symbols for debugging, and do not say where they were built.
func TestPrograms(t *testing.T) {
	absolute := regexp.MustCompile(`\x00/[\w./@-]+\.go\x00`) // in the table of source files
	for _, arch := range []string{"amd64", "arm64"} {
		for _, name := range []string{"kmmd", "kmm-watcher"} {
			file := dist(t, "bin", arch, name)
			program, err := elf.Open(file)
			require.NoError(t, err)
			for _, p := range program.Progs {
				assert.NotEqual(t, elf.PT_INTERP, p.Type, "%s for %s is dynamic", name, arch)
			}
			for _, section := range program.Sections {
				assert.NotContains(t, section.Name, "debug", "%s for %s", name, arch)
				assert.NotEqual(t, ".symtab", section.Name, "%s for %s", name, arch)
			}
			require.NoError(t, program.Close())
			b, err := os.ReadFile(file)
			require.NoError(t, err)
			assert.Empty(t, string(absolute.Find(b)), "%s for %s", name, arch)
		}
	}
}

func sum(t *testing.T, file string) [sha256.Size]byte {
	t.Helper()
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	return sha256.Sum256(b)
}
