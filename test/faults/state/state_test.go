// SPDX-License-Identifier: Apache-2.0

package state

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// note is a .note.gnu.build-id.
func note(id string) string {
	return "\x04\x00\x00\x00\x02\x00\x00\x00\x03\x00\x00\x00GNU\x00" + id
}

const hold = "# Written by kmmd\nsoftdep old pre: post:\ninstall old /bin/false\nblacklist old\n"

// good is a node that runs a of build aaaa, with firmware, and holds off old.
func good() map[string]string {
	return map[string]string{
		"proc/modules":                              "a 16384 0 - Live 0x0000000000000000 (OE)\nother 1 0 - Loading 0x0\n",
		"sys/module/a/notes/.note.gnu.build-id":     note("\xaa\xaa"),
		"sys/module/a/parameters/level":             "3\n",
		"sys/module/a/parameters/more":              "x\n",
		"sys/module/firmware_class/parameters/path": "/fw\n",
		"run/modprobe.d/00-kmmd.conf":               hold,
		"fw/sub/a.bin":                              "one",
	}
}

var (
	wanted = State{
		Modules:  map[string]Module{"a": {BuildID: "aaaa", Parameters: map[string]string{"level": "3"}}},
		Firmware: map[string]string{"sub/a.bin": "one"}, Path: "/fw", Held: []string{"old"},
	}
	before = State{
		Modules:  map[string]Module{"old": {BuildID: "bbbb"}},
		Firmware: map[string]string{"sub/a.bin": "two"}, Path: "",
	}
)

// write makes the files of a map in a new directory; those without content are
// left out.
func write(t *testing.T, files ...map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	all := map[string]string{}
	for _, f := range files {
		maps.Copy(all, f)
	}
	for path, content := range all {
		if content == "" {
			continue
		}
		require.NoError(t, os.MkdirAll(filepath.Join(dir, filepath.Dir(path)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, path), []byte(content), 0o644))
	}
	return dir
}

func read(dir string) (State, error) {
	return Read(Node{Root: dir, Firmware: filepath.Join(dir, "fw"), Names: []string{"a", "old", "third"}})
}

// TestWrong: each change of a good node is seen, whatever may be allowed.
func TestWrong(t *testing.T) {
	tests := []struct {
		name    string
		change  map[string]string
		words   string
		between string // what it is called when no more than being on the way is asked; "" is nothing
	}{
		{"nothing", nil, "", ""},
		{"no firmware directory", map[string]string{"fw/sub/a.bin": ""}, "firmware sub/a.bin is missing", "both sides have it"},
		{"torn firmware", map[string]string{"fw/sub/a.bin": "on"}, `firmware sub/a.bin is "on", not "one"`, "of neither side"},
		{"old firmware", map[string]string{"fw/sub/a.bin": "two"}, `firmware sub/a.bin is "two", not "one"`, ""},
		{"firmware too much", map[string]string{"fw/b": "x"}, "firmware b is there", "of neither side"},
		{"staging left", map[string]string{"fw/.staging/0": "x"}, "firmware .staging/0 is there", ""},
		{"path not set", map[string]string{"sys/module/firmware_class/parameters/path": "\n"}, `firmware_class.path is "", not "/fw"`, ""},
		{"another path", map[string]string{"sys/module/firmware_class/parameters/path": "/fw2\n"}, `firmware_class.path is "/fw2"`, "of neither side"},
		{"no hold", map[string]string{"run/modprobe.d/00-kmmd.conf": ""}, `held off are [], not ["old"]`, ""},
		{"hold of another", map[string]string{"run/modprobe.d/00-kmmd.conf": strings.ReplaceAll(hold, "old", "x")}, `held off are ["x"]`, "of neither side"},
		{"torn hold", map[string]string{"run/modprobe.d/00-kmmd.conf": hold[:len(hold)-5]}, "read: ", "read: "},
		{"another build", map[string]string{"sys/module/a/notes/.note.gnu.build-id": note("\xaa\xab")}, "module a is of build-id aaab, not aaaa", "of neither side"},
		{"another parameter", map[string]string{"sys/module/a/parameters/level": "4\n"}, `module a has level="4", not "3"`, "of neither side"},
		{"no parameter", map[string]string{"sys/module/a/parameters/level": ""}, `module a has level="", not "3"`, "of neither side"},
		{"nothing runs", map[string]string{"proc/modules": "x 1 0 - Live 0x0\n"}, "module a does not run", ""},
		{"still loading", map[string]string{"proc/modules": "a 1 0 - Loading 0x0\n"}, "read: module a is Loading", "read: "},
		{"one too much", map[string]string{
			"proc/modules": "a 1 0 - Live 0x0\nthird 1 0 - Live 0x0\n",
			"sys/module/third/notes/.note.gnu.build-id": note("\xcc\xcc"),
		}, "module third runs (build-id cccc)", "of neither side"},
		{"both", map[string]string{
			"proc/modules": "a 1 0 - Live 0x0\nold 1 0 - Live 0x0\n",
			"sys/module/old/notes/.note.gnu.build-id": note("\xbb\xbb"),
		}, "module old runs (build-id bbbb)", ""},
		{"no note", map[string]string{"sys/module/a/notes/.note.gnu.build-id": note("")}, "read: module a: no note", "read: "},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, err := read(write(t, good(), tt.change))
			check(t, tt.words, err, s.Is(wanted))
			_, oneOf := s.OneOf(Named{"before", before}, Named{"wanted", wanted})
			assert.Equal(t, tt.words == "", err == nil && oneOf == nil, "%v", oneOf)
			check(t, tt.between, err, s.Between(before, wanted, ".staging"))
		})
	}
}

// check compares what was found wrong with the words it is known by.
func check(t *testing.T, words string, read, compare error) {
	t.Helper()
	rest, inRead := strings.CutPrefix(words, "read: ")
	switch {
	case words == "":
		require.NoError(t, read)
		require.NoError(t, compare)
	case inRead:
		require.ErrorContains(t, read, rest)
	default:
		require.NoError(t, read)
		require.ErrorContains(t, compare, words)
	}
}

func TestOneOf(t *testing.T) {
	name, err := wanted.OneOf(Named{"before", before}, Named{"wanted", wanted})
	require.NoError(t, err)
	assert.Equal(t, "wanted", name)
	_, err = State{}.OneOf(Named{"before", before}, Named{"wanted", wanted})
	require.ErrorContains(t, err, "before: module old does not run; firmware sub/a.bin is missing")
	require.ErrorContains(t, err, "wanted: module a does not run;")
}
