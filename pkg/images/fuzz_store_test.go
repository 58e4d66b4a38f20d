// SPDX-License-Identifier: Apache-2.0

package images

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// FuzzListing keeps what was learnt of a layer and reads it again; a file in which
// a byte is wrong is none.
func FuzzListing(f *testing.F) {
	f.Add("opt/lib/modules/x/a.ko\x00usr\x00srv/x", int64(7), []byte("abc"), uint16(40))
	f.Add("\xff", int64(-1), []byte{}, uint16(0))
	f.Fuzz(func(t *testing.T, names string, size int64, content []byte, at uint16) {
		s, err := Open(filepath.Join(t.TempDir(), "store"), Options{})
		require.NoError(t, err)
		sum := sha256.Sum256(content)
		hexSum := hex.EncodeToString(sum[:])
		d := &layerData{sums: map[int]listedContent{1: {Sum: hexSum, Size: size}}}
		for i, name := range strings.Split(names, "\x00") {
			d.entries = append(d.entries, entry{name: name, link: name + "l", size: size, ordinal: i, kind: kind(i % 4)})
		}
		b, ok, err := d.listing(hexSum)
		require.NoError(t, err)
		assert.Equal(t, utf8.ValidString(names), ok)
		if !ok {
			return
		}
		require.NoError(t, os.WriteFile(s.listingPath(hexSum), b, 0o600))
		l := s.readListing(hexSum, len(d.entries))
		require.NotNil(t, l)
		assert.Equal(t, d.sums, l.Files)
		require.Len(t, l.Entries, len(d.entries))
		for i, e := range l.Entries {
			got := entry{name: e.Name, link: e.Link, size: e.Size, ordinal: e.Ordinal, kind: e.Kind}
			assert.Equal(t, d.entries[i], got)
		}
		assert.Nil(t, s.readListing(hexSum, len(d.entries)-1), "more entries than allowed")
		b[int(at)%len(b)] ^= 1 + byte(at>>8)&0x7f
		require.NoError(t, os.WriteFile(s.listingPath(hexSum), b, 0o600))
		assert.Nil(t, s.readListing(hexSum, len(d.entries)))
	})
}

// FuzzListingBytes has anything in the file, with the right sum before it.
func FuzzListingBytes(f *testing.F) {
	f.Add([]byte(`{"version":2}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := Open(filepath.Join(t.TempDir(), "store"), Options{})
		require.NoError(t, err)
		name := strings.Repeat("0", 64)
		sum := sha256.Sum256(b)
		require.NoError(t, os.WriteFile(s.listingPath(name), append(sum[:], b...), 0o600))
		if l := s.readListing(name, 10); l != nil {
			assert.LessOrEqual(t, len(l.Entries), 10)
			for _, c := range l.Files {
				assert.True(t, isDigest("sha256:"+c.Sum))
			}
		}
	})
}

// FuzzTree has anything for a tree.json, beside files that are or are not what it
// says. What is found right is a plain file inside the tree with the right sum,
// and nothing outside is ever taken for a part of it.
func FuzzTree(f *testing.F) {
	sum := sha256.Sum256([]byte("abc"))
	good := `{"version":2,"ref":"r:1","digest":"sha256:00","release":"6.1.0","firmware":true,"modules":["a"],
		"files":[{"path":"lib/modules/6.1.0/a.ko","sha256":"` + hex.EncodeToString(sum[:]) + `","size":3}],"layers":["sha256:00"]}`
	f.Add([]byte(good), "lib/modules/6.1.0/a.ko", []byte("abc"))
	f.Add([]byte(strings.Replace(good, "lib/modules/6.1.0/a.ko", "../outside", 1)), "x", []byte("abc"))
	f.Add([]byte(strings.Replace(good, `"6.1.0"`, `"../.."`, 1)), "x", []byte("abc"))
	f.Add([]byte(good), "li\xff/x", []byte("abc"))
	f.Fuzz(func(t *testing.T, b []byte, name string, content []byte) {
		dir := t.TempDir()
		tree := filepath.Join(dir, "tree")
		require.NoError(t, os.Mkdir(tree, 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "outside"), []byte("abc"), 0o600))
		require.NoError(t, os.WriteFile(filepath.Join(tree, treeFile), b, 0o600))
		if filepath.IsLocal(name) && len(name) < 200 && !strings.Contains(name, "\x00") && path.Base(name) != treeFile {
			at := filepath.Join(tree, name)
			if os.MkdirAll(filepath.Dir(at), 0o700) == nil {
				_ = os.WriteFile(at, content, 0o600) // a directory may be in the way
			}
		}
		tr, err := loadTree(tree)
		if err != nil {
			assert.ErrorIs(t, err, ErrDigest)
			return
		}
		assert.True(t, strings.HasPrefix(tr.ModulesDir, filepath.Join(tree, modulesPart)), tr.ModulesDir)
		if err := tr.Verify(); err == nil {
			for p, r := range tr.files {
				data, err := os.ReadFile(filepath.Join(tree, p))
				require.NoError(t, err)
				got := sha256.Sum256(data)
				assert.Equal(t, r.SHA256, hex.EncodeToString(got[:]))
			}
		} else {
			assert.ErrorIs(t, err, ErrDigest)
		}
		assert.Error(t, tr.Verify(filepath.Join(dir, "outside")))
		assert.Error(t, CopyFile(filepath.Join(dir, "outside"), io.Discard))
	})
}

// FuzzReference has any text for an image. What is accepted is a registry's with a
// tag or digest, or an absolute path; it means the same when it is read again, and
// where it is kept is a name of our own.
func FuzzReference(f *testing.F) {
	for _, s := range []string{"reg.example:5000/a/b:v1", "a@sha256:" + strings.Repeat("0", 64), "oci:/srv/images:v1", "oci-archive:/a.tar",
		"oci:5000/a:b", "reg/../x:1", "A:b", "a:b@sha256:00", "[::1]:5000/a:b", "oci:/a//b"} {
		f.Add(s, "6.1.0", "/firmware", "/opt")
	}
	f.Add(strings.Repeat("a", 250)+":v1", "6.1.0", "/firmware", "/opt")
	f.Fuzz(func(t *testing.T, ref, release, firmware, dir string) {
		q, err := parseRequest(Request{Ref: ref, Releases: []string{release}, FirmwarePath: firmware, DirName: dir})
		if err != nil {
			assert.ErrorIs(t, err, ErrInvalidRef)
			return
		}
		assert.NotContains(t, release, "/")
		assert.True(t, path.IsAbs(q.dirName) && path.Clean(q.dirName) == q.dirName)
		assert.Regexp(t, `^[0-9a-f]{64}$`, q.key("sha256:00"))
		if local, ok := q.ref.(localRef); ok {
			assert.True(t, path.IsAbs(local.path) && path.Clean(local.path) == local.path, "%q", local.path)
		} else {
			assert.NotEmpty(t, q.ref.Context().RegistryStr())
			for part := range strings.SplitSeq(q.ref.Context().RepositoryStr(), "/") {
				assert.NotContains(t, []string{"", ".", ".."}, part)
			}
			assert.NotEmpty(t, q.ref.Identifier())
			if len(q.ref.Context().RepositoryStr()) > 255 {
				return // too long with the library/ of Docker Hub before it
			}
		}
		again, err := parseRequest(Request{Ref: q.ref.Name(), Releases: []string{release}})
		require.NoError(t, err, "%q", q.ref.Name())
		assert.Equal(t, q.ref.Name(), again.ref.Name())
		assert.Equal(t, q.digest, again.digest)
	})
}
