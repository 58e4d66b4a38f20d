// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/test/faults/state"
)

// damage is what a file may be found as.
type damage struct {
	name string
	do   func(path string, content []byte) error
}

func write(change func([]byte) []byte) func(string, []byte) error {
	return func(path string, content []byte) error { return os.WriteFile(path, change(content), 0o600) }
}

var damages = []damage{
	{"empty", write(func([]byte) []byte { return nil })},
	{"truncated", write(func(b []byte) []byte { return b[:len(b)/2] })},
	{"zeros", write(func(b []byte) []byte { return make([]byte, len(b)) })},
	{"garbage", write(func(b []byte) []byte { return []byte(incompressible(max(len(b), 100))) })},
	{"another bit", write(flip)},
	{"JSON of something else", write(func([]byte) []byte { return []byte(`["kmmd"]`) })},
	{"null", write(func([]byte) []byte { return []byte("null") })},
	{"empty object", write(func([]byte) []byte { return []byte("{}") })},
	{"missing", func(string, []byte) error { return nil }},
}

// victims are the files of kmmd; each pattern finds one or more.
var victims = []struct {
	name, pattern string
	asked         bool // it is what is asked for: then nothing need be as wanted before it is mended
	others        bool // what is there now may be meant: it is a conflict that is told, and stays until somebody moves it away
}{
	{name: "ledger", pattern: runDir + "/ledger.json"},
	{name: "status", pattern: runDir + "/status.json"},
	{name: "lock", pattern: runDir + "/lock"},
	{name: "what is known to be whole", pattern: runDir + "/verified.json"},
	{name: "where the kernel's symbols are", pattern: runDir + "/symbols.json"},
	{name: "firmware manifest", pattern: stateDir + "/firmware.json"},
	{name: "firmware manifest's lock", pattern: stateDir + "/firmware.json.lock"},
	{name: "record of an image", pattern: stateDir + "/images/trees/*/tree.json"},
	{name: "module file of an image", pattern: stateDir + "/images/trees/*/lib/modules/*/dummy.ko"},
	{name: "firmware file of an image", pattern: stateDir + "/images/trees/*/firmware/a.bin"},
	{name: "tag", pattern: stateDir + "/images/refs/*.json"},
	{name: "pin", pattern: stateDir + "/images/pins/*.json"},
	{name: "list of a layer", pattern: stateDir + "/images/layers/*"},
	{name: "store's lock", pattern: stateDir + "/images/lock"},
	{name: "installed firmware", pattern: firmwareDir + "/a.bin", others: true},
	{name: "hold of autoload", pattern: holdFile},
	{name: "document", pattern: documentFile, asked: true},
}

// TestDamage finds a file damaged when kmmd starts, on a node that is as wanted.
// What runs must go on running, not be loaded a second time; and a swap back and
// forth must be possible then, without help.
func TestDamage(t *testing.T) {
	steady := &scenario{
		name: "steady", moduleName: "dummy", remove: "[dummy, null_blk]", order: "[dummy, kmm_dep]",
		fromImage: ourImage, from: side{ourRuns, newFirmware, both}, toImage: ourImage, to: side{ourRuns, newFirmware, both},
	}
	upgrade := *steady
	upgrade.toImage, upgrade.to = firstImage, side{firstRuns, oldFirmware, both}
	for _, v := range victims {
		for _, d := range damages {
			if !full && (v.name != "ledger" && v.name != "firmware manifest" || d.name != "truncated") {
				continue
			}
			if v.asked && d.name == "missing" {
				continue // then it is asked that all goes
			}
			t.Run(v.name+"/"+d.name, func(t *testing.T) {
				defer counts.Case(t, "damaged: "+v.name)()
				steady.begin(t)
				inflict(t, v.pattern, d)
				before := line(t, ifindex)
				code := once(t)
				require.Equal(t, before, line(t, ifindex), "what runs was not loaded a second time")
				if v.asked {
					require.NoError(t, isNow(steady.to.state(t)))
					require.NoError(t, os.RemoveAll(documentFile))
					steady.ask(t, ourImage)
					code = once(t)
				}
				if v.others && d.name != "missing" {
					require.Equal(t, 1, code)
					requireConflict(t, v.pattern)
					code = once(t)
				}
				require.Equal(t, 0, code)
				steady.requireEnd(t)
				upgrade.ask(t, upgrade.toImage)
				upgrade.requireComplete(t)
			})
		}
	}
}

// requireConflict requires that a conflict about a file has been told, and moves the
// file away.
func requireConflict(t *testing.T, path string) {
	t.Helper()
	told, err := status()
	require.NoError(t, err)
	require.Equal(t, "Failed FirmwareConflict", told)
	have, want := look(t).Firmware[filepath.Base(path)], state.Content([]byte(newFirmware[filepath.Base(path)]))
	require.NotEqual(t, want, have, "what may be somebody's is as it was")
	require.NoError(t, os.Remove(path))
}

// inflict damages all files of a pattern.
func inflict(t *testing.T, pattern string, d damage) {
	t.Helper()
	paths, err := filepath.Glob(pattern)
	require.NoError(t, err)
	require.NotEmpty(t, paths, pattern)
	for _, path := range paths {
		content, err := os.ReadFile(path)
		require.NoError(t, err)
		require.NoError(t, os.Remove(path))
		require.NoError(t, d.do(path, content))
	}
}

// TestDamageInSwap finds the ledger damaged after a kill at each call about a
// module: the journal is gone with it, and so is what only that knew. Where the
// new module is refused, too, nobody can say what ran before. And what was to be
// unloaded stays, as nobody knows whose it is, until it is asked for again and
// then not any more.
func TestDamageInSwap(t *testing.T) {
	if !full {
		t.Skip("in the full campaign")
	}
	for _, s := range changes {
		if s.fails {
			continue
		}
		for _, d := range damages[:3] {
			t.Run(s.name+"/"+d.name, func(t *testing.T) {
				s.each(t, moduleCall, nil, func(t *testing.T, at place) {
					defer counts.Case(t, "damaged: ledger after a kill")()
					s.begin(t)
					s.killAt(t, at, false)
					s.requireBetween(t)
					inflict(t, runDir+"/ledger.json", d)
					require.Equal(t, s.code(), once(t))
					if s.toImage == nil {
						s.requireBetween(t)
						s.ask(t, s.fromImage)
						require.Equal(t, 0, once(t))
						require.NoError(t, isNow(s.from.state(t)))
						s.ask(t, nil)
						require.Equal(t, 0, once(t))
					}
					s.requireEnd(t)
				})
			})
		}
	}
}

// TestDamageConfig: a configuration that can not be read changes nothing, and says
// so with exit code 2.
func TestDamageConfig(t *testing.T) {
	s := changes[1]
	for _, d := range damages {
		if d.name == "empty" || d.name == "missing" || !full && d.name != "garbage" {
			continue // these are configurations
		}
		t.Run(d.name, func(t *testing.T) {
			defer counts.Case(t, "damaged: configuration")()
			s.begin(t)
			require.NoError(t, os.RemoveAll(configFile))
			t.Cleanup(func() { require.NoError(t, os.RemoveAll(configFile)) })
			require.NoError(t, d.do(configFile, []byte("resync = \"5m\"\nlisten = \"127.0.0.1:9808\"\n")))
			require.Equal(t, 2, once(t))
			require.NoError(t, isNow(s.from.state(t)))
			require.NoError(t, os.RemoveAll(configFile))
			s.requireComplete(t)
		})
	}
}
