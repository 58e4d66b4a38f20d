// SPDX-License-Identifier: Apache-2.0

package state

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func sum(content string) string {
	s := sha256.Sum256([]byte(content))
	return hex.EncodeToString(s[:])
}

const goodLedger = `{"bootID":"b","modules":{"a":{"owners":["default/a"],"file":{"name":"a","buildID":"aaaa"}}}}`

// disk is what a kmmd that runs a leaves behind.
func disk() map[string]string {
	return map[string]string{
		"run/ledger.json": goodLedger,
		"state/images/files/sha256/2c/" + sum("ko"): "ko",
		"state/images/trees/1/lib/a.ko":             "ko",
		"state/images/trees/1/tree.json":            fmt.Sprintf(`{"files":[{"path":"lib/a.ko","sha256":%q}]}`, sum("ko")),
		"fw/a.bin":                                  "x",
	}
}

func TestSettled(t *testing.T) {
	tests := []struct {
		name   string
		change map[string]string
		words  string
	}{
		{"nothing", nil, ""},
		{"no ledger", map[string]string{"run/ledger.json": ""}, "no such file"},
		{"torn ledger", map[string]string{"run/ledger.json": goodLedger[:40]}, "unexpected end of JSON"},
		{"of another boot", map[string]string{"run/ledger.json": `{"bootID":"c","modules":{"a":{"file":{"buildID":"aaaa"}}}}`}, "of boot c"},
		{"journal", map[string]string{"run/ledger.json": goodLedger[:len(goodLedger)-1] + `,"journal":{"default/a":[]}}`}, "a journal of default/a"},
		{"another build known", map[string]string{"run/ledger.json": `{"bootID":"b","modules":{"a":{"file":{"buildID":"ab"}}}}`}, `a as build-id "ab"`},
		{"not known", map[string]string{"run/ledger.json": `{"bootID":"b"}`}, `a as build-id ""`},
		{"known and not ours", map[string]string{
			"run/ledger.json": `{"bootID":"b","modules":{"a":{"file":{"buildID":"aaaa"}},"x":{"file":{"buildID":"aaaa"}}}}`}, "x, which is not kmmd's"},
		{"damaged content", map[string]string{"state/images/files/sha256/2c/" + sum("ko"): "ok"}, "is not sha256:"},
		{"damaged file of a tree", map[string]string{"state/images/trees/1/lib/a.ko": "k"}, "a.ko is not sha256:"},
		{"missing file of a tree", map[string]string{"state/images/trees/1/lib/a.ko": ""}, "a.ko: no such file"},
		{"stranger in a tree", map[string]string{"state/images/trees/1/lib/b.ko": "b"}, "b.ko is not of the image"},
		{"torn record", map[string]string{"state/images/trees/1/tree.json": "{"}, "unexpected end of JSON"},
		{"empty record", map[string]string{"state/images/trees/1/tree.json": "{}"}, "names no file"},
		{"no record", map[string]string{"state/images/trees/1/tree.json": ""}, "tree.json: no such file"},
		{"pull left", map[string]string{"state/images/tmp/pull-1/x": "x"}, "left behind: "},
		{"firmware staging left", map[string]string{"fw/.staging/0": "x"}, "left behind: "},
		{"manifest left", map[string]string{"state/firmware.json.tmp": "x"}, "left behind: "},
		{"module file left", map[string]string{"run/module-1.ko": "x"}, "left behind: "},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := write(t, disk(), tt.change)
			d := Dirs{State: filepath.Join(dir, "state"), Run: filepath.Join(dir, "run"), Firmware: filepath.Join(dir, "fw")}
			err := d.Settled("b", map[string]string{"a": "aaaa"})
			if tt.words == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, tt.words)
		})
	}
}
