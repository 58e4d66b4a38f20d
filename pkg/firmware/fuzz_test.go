// SPDX-License-Identifier: Apache-2.0

package firmware

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// FuzzManifest has anything in the manifest, beside files of an administrator.
// Whatever it says: nothing outside of the directory changes, and no file whose
// bytes the manifest does not know.
func FuzzManifest(f *testing.F) {
	f.Add([]byte(`{"version":1,"files":{"sub/a.bin":{"sha256":"00","size":4,"owners":["ns/a"]}},"dirs":["sub"]}`))
	f.Add([]byte(`{"version":1,"files":{"../outside":{"sha256":"00","size":4,"owners":["ns/a"]}},"dirs":["..","/"]}`))
	f.Add([]byte(`{"version":1,"files":{},"dirs":[],"pending":{"owner":"ns/a","put":[{"Path":"../x","SHA256":"00","Size":1,"staged":"../../outside"}],` +
		`"drop":["admin.bin","../outside"],"make":["../dir"],"files":null}}`))
	f.Add([]byte(`{"version":1,"files":null,"dirs":null,"pending":{}}`))
	f.Fuzz(func(t *testing.T, manifest []byte) {
		tmp := t.TempDir()
		outside := filepath.Join(tmp, "outside")
		require.NoError(t, os.WriteFile(outside, []byte("outside"), 0o600))
		admin := files{"admin.bin": "admin", "sub/admin.bin": "admin"}
		write(t, filepath.Join(tmp, "firmware"), admin)
		write(t, tmp, files{"state/firmware.json": string(manifest)})
		defer func() {
			data, err := os.ReadFile(outside)
			assert.NoError(t, err)
			assert.Equal(t, "outside", string(data))
			entries, err := os.ReadDir(tmp)
			assert.NoError(t, err)
			assert.Len(t, entries, 3, "firmware, outside, state")
			for name, content := range admin {
				data, err := os.ReadFile(filepath.Join(tmp, "firmware", name))
				assert.NoError(t, err)
				assert.Equal(t, content, string(data))
			}
		}()
		d, err := Open(filepath.Join(tmp, "firmware"), filepath.Join(tmp, "state", "firmware.json"))
		if err != nil {
			return
		}
		if _, err := d.Owners(); err != nil {
			return
		}
		_, _ = d.Install("ns/a", source(t, files{"a.bin": "a", "sub/b.bin": "b"}))
		_ = d.Remove("ns/a")
		_ = d.Remove("ns/b")
	})
}

// wasThere is a file that was there with "0", and what owners have made of it.
type wasThere struct {
	now  string // its content; "" when it is gone
	used bool   // an owner has it
	gone bool   // with an owner, or not theirs any more: it is as any other file
}

// takes has the owner install it with some content, or have it no more, "". It is false when it is in the way.
func (f *wasThere) takes(content string) bool {
	switch theirs := f.now == "0" && !f.gone; {
	case content == "" && (theirs || !f.used):
		f.used = false
	case content == "":
		*f = wasThere{gone: true}
	case theirs && !f.used && content != "0":
		return false
	default:
		f.now, f.used = content, true
	}
	return true
}

// FuzzHistory has three owners install and remove sets of files in any order, and
// kmmd stopped anywhere in between, and compares with what each has then. One file
// was there before: what ns/a may do with it, wasThere says.
func FuzzHistory(f *testing.F) {
	f.Add([]byte{0x03, 0, 0x45, 0, 0x86, 0, 0x00, 0, 0x40, 3, 0x03, 5})
	f.Add([]byte{0x1f, 2, 0x1c, 4, 0x5f, 0, 0x00, 0, 0x40, 1, 0x03, 7})
	f.Add([]byte{0x20, 0, 0x20, 1, 0x01, 2, 0x20, 0, 0x20, 5, 0x20, 8, 0x00, 0, 0x20, 0x21})
	f.Add([]byte{0x21, 0, 0x20, 9, 0x20, 0x10, 0x61, 0, 0x00, 0, 0x20, 1, 0x20, 0})
	names := []string{"a.bin", "sub/b.bin", "sub/deep/c.bin", "shared.bin", "sub/own.bin", "was.bin"}
	f.Fuzz(func(t *testing.T, code []byte) {
		if len(code) > 24 {
			return
		}
		w := newWorld(t)
		write(t, w.dir, files{"was.bin": "0"})
		was := wasThere{now: "0"}
		has := map[string]files{}
		for ; len(code) > 1; code = code[2:] {
			owner := "ns/" + string(rune('a'+code[0]>>6%3))
			set := files{}
			for i, name := range names {
				if code[0]&(1<<i) == 0 {
					continue
				}
				switch name {
				case "shared.bin":
					set[name] = "shared"
				case "sub/own.bin":
					set[name+owner[3:]] = owner
				default:
					if owner == "ns/a" { // the others would be in its way
						set[name] = string(rune('0' + code[1]%4))
					}
				}
			}
			src := source(t, set)
			change := func() error {
				if len(set) == 0 {
					return w.d.Remove(owner)
				}
				_, err := w.d.Install(owner, src)
				return err
			}
			// Stopped anywhere, started, and done again.
			w.stopAt(1+int(code[1]>>2), func() { _ = change() })
			w.open()
			if err := change(); owner == "ns/a" && !was.takes(set["was.bin"]) {
				require.ErrorIs(t, err, ErrConflict)
			} else {
				require.NoError(t, err)
				has[owner] = set
			}
			want := files{}
			if was.now != "" {
				want["was.bin"] = was.now
			}
			for _, set := range has {
				maps.Copy(want, set)
			}
			got := w.read()
			maps.DeleteFunc(got, func(name, _ string) bool { return strings.HasPrefix(name, staging) })
			assert.Equal(t, want, got)
		}
	})
}
