// SPDX-License-Identifier: Apache-2.0

package kmod_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/kmod"
	"github.com/kmm-node/kmmd/test/debian"
)

// modprobe is the real one, kept away from the configuration of this machine
// except for /proc/cmdline, which it always reads.
type modprobe struct {
	path    string
	root    string
	release string
	configs []string
}

// batch is how many names one modprobe process is given; batches only save time.
const batch = 250

// findModprobe fails the test when there is none: with the lab there has to be one.
func findModprobe(t *testing.T, root, release string, configs ...string) modprobe {
	t.Helper()
	for _, path := range []string{"/sbin/modprobe", "/usr/sbin/modprobe"} {
		if _, err := os.Stat(path); err == nil {
			return modprobe{path: path, root: root, release: release, configs: configs}
		}
	}
	require.Fail(t, "modprobe is not installed (package kmod)")
	return modprobe{}
}

// showDepends gives what modprobe prints for all names, one after the other, and
// the names it does not know.
func (m modprobe) showDepends(t *testing.T, names ...string) (lines, missing []string) {
	t.Helper()
	args := []string{"-d", m.root, "-S", m.release, "--all", "--show-depends"}
	for _, c := range m.configs {
		args = append(args, "-C", c)
	}
	cmd := exec.CommandContext(t.Context(), m.path, append(append(args, "--"), names...)...)
	cmd.Env = []string{"LC_ALL=C"}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		var exit *exec.ExitError
		require.ErrorAs(t, err, &exit, stderr.String())
	}
	for line := range strings.Lines(stderr.String()) {
		name, ok := strings.CutPrefix(line, "modprobe: WARNING: Module ")
		if name, _, found := strings.Cut(name, " not found in directory "); ok && found {
			missing = append(missing, name)
		}
	}
	return splitLines(stdout.String()), missing
}

func splitLines(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(strings.TrimSuffix(s, "\n"), "\n")
}

// ours is showDepends with this package.
func ours(t *testing.T, x *kmod.Index, cfg *kmod.Config, names ...string) (lines, missing []string) {
	t.Helper()
	for _, name := range names {
		got, err := x.ShowDepends(cfg, name)
		if errors.Is(err, kmod.ErrNotFound) {
			missing = append(missing, name)
			continue
		}
		require.NoError(t, err, name)
		for _, l := range got {
			lines = append(lines, l.String())
		}
	}
	return lines, missing
}

// compare runs both over all names. A batch that differs is run again name by
// name, to show the names.
func compare(t *testing.T, m modprobe, x *kmod.Index, cfg *kmod.Config, names []string) {
	t.Helper()
	require.NotEmpty(t, names)
	for part := range slices.Chunk(names, batch) {
		wantLines, wantMissing := m.showDepends(t, part...)
		gotLines, gotMissing := ours(t, x, cfg, part...)
		if slices.Equal(wantLines, gotLines) && slices.Equal(wantMissing, gotMissing) {
			continue
		}
		shown := 0
		for _, name := range part {
			wantLines, wantMissing := m.showDepends(t, name)
			gotLines, gotMissing := ours(t, x, cfg, name)
			if !assert.Equal(t, wantLines, gotLines, name) || !assert.Equal(t, wantMissing, gotMissing, name) {
				if shown++; shown > 5 {
					t.FailNow()
				}
			}
		}
		require.NotZero(t, shown, "differs only when asked in one go: %q", part)
	}
}

func hostCmdline(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile("/proc/cmdline")
	require.NoError(t, err)
	return string(data)
}

func TestLabParityWithModprobe(t *testing.T) {
	lab, releases := debian.Kernels(t)
	for _, release := range releases {
		t.Run(release, func(t *testing.T) {
			t.Parallel()
			root := filepath.Join(lab, release)
			dir := filepath.Join(root, "lib/modules", release)
			x, err := kmod.OpenIndex(dir)
			require.NoError(t, err)
			empty := t.TempDir()
			cfg, err := kmod.ReadConfig(empty, hostCmdline(t))
			require.NoError(t, err)
			m := findModprobe(t, root, release, empty)
			all := requests(t, dir)
			for name, names := range all {
				t.Run(name, func(t *testing.T) { compare(t, m, x, cfg, names) })
			}
			host, err := kmod.ReadConfig("", hostCmdline(t))
			require.NoError(t, err)
			t.Run("with the configuration of this machine", func(t *testing.T) { compare(t, findModprobe(t, root, release), x, host, all["modules"]) })
		})
	}
}

// requests gives everything a kernel's files know a name for.
func requests(t *testing.T, dir string) map[string][]string {
	t.Helper()
	r := map[string][]string{
		"chosen": {"nfsd", "vfio", "ksmbd", "cifs", "snd-hda-intel", "aegis128", "aes", "crypto-aes", "fs-ext4", "ext4", "net-pf-10", "loop", "block-major-7-*",
			"char-major-10-200", "rtnl-link-dummy", "symbol:nfs_file_operations", "dummy"},
		"missing": {"nosuch", "no-such", "dummy.ko", "dummy.ko.xz", "kernel/drivers/net/dummy.ko", "", " dummy", "Dummy", "symbol:nosuch", "symbol:", "pci:", "[", "]",
			"a[b", "ext4.ko", "nosuch:dummy", "*x*", "?"},
	}
	for _, file := range readLines(t, dir, "modules.dep") {
		path, _, _ := strings.Cut(file, ":")
		base, _, _ := strings.Cut(filepath.Base(path), ".")
		r["modules"] = append(r["modules"], base, kmod.Name(path))
	}
	for _, path := range readLines(t, dir, "modules.builtin") {
		base := strings.TrimSuffix(filepath.Base(path), ".ko")
		r["builtin"] = append(r["builtin"], base, kmod.Name(path))
	}
	for _, line := range readLines(t, dir, "modules.alias") {
		if pattern, ok := aliasPattern(line); ok {
			r["aliases"] = append(r["aliases"], spellings(pattern)...)
		}
	}
	for _, line := range readLines(t, dir, "modules.symbols") {
		if pattern, ok := aliasPattern(line); ok {
			r["symbols"] = append(r["symbols"], pattern)
		}
	}
	data, err := os.ReadFile(filepath.Join(dir, "modules.builtin.modinfo"))
	require.NoError(t, err)
	for entry := range strings.SplitSeq(string(data), "\x00") {
		if _, pattern, ok := strings.Cut(entry, ".alias="); ok {
			r["builtin aliases"] = append(r["builtin aliases"], spellings(pattern)...)
		}
	}
	return r
}

func readLines(t testing.TB, dir, name string) []string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, name))
	require.NoError(t, err)
	require.NotEmpty(t, data, name)
	return splitLines(string(data))
}

func aliasPattern(line string) (string, bool) {
	line, ok := strings.CutPrefix(line, "alias ")
	end := strings.LastIndexByte(line, ' ')
	if !ok || end < 0 {
		return "", false
	}
	return line[:end], true
}

// spellings gives names that match a pattern: with nothing, something short and
// something long for each '*', and with '-' for '_' too. A pattern without
// wildcards is one itself.
func spellings(pattern string) []string {
	var names []string
	for _, star := range []string{"", "0", "zz:y*-_/7"} {
		var b strings.Builder
		for i := 0; i < len(pattern); i++ {
			switch c := pattern[i]; c {
			case '*':
				b.WriteString(star)
			case '?':
				b.WriteByte('q')
			case '[':
				end := i + strings.IndexByte(pattern[i:], ']')
				b.WriteByte(pattern[i+1])
				i = end
			default:
				b.WriteByte(c)
			}
		}
		if !slices.Contains(names, b.String()) {
			names = append(names, b.String())
		}
	}
	if s := strings.ReplaceAll(names[0], "_", "-"); s != names[0] {
		names = append(names, s)
	}
	return names
}
