// SPDX-License-Identifier: Apache-2.0

package imagestest

import (
	"archive/tar"
	"bytes"
	"path"
	"sort"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Entry is one member of a tar stream.
type Entry struct {
	Name string
	Type byte   // tar.TypeReg and so on; zero is a regular file
	Body string // regular files
	Link string // symlinks, hard links
	Mode int64  // zero is 0644, for a directory 0755
	// Size, when not zero, is written to the header instead of the length of
	// Body; the stream then ends in the middle of it.
	Size int64
	// PAX are extended records, "SCHILY.xattr.user.x": "y".
	PAX map[string]string
	// Raw, when not nil, is written as it is, and nothing else of the entry: what
	// archive/tar does not write. See Header.
	Raw []byte
}

// File is a regular file.
func File(name, body string) Entry { return Entry{Name: name, Body: body} }

// Directory is an explicit directory.
func Directory(name string) Entry { return Entry{Name: name, Type: tar.TypeDir} }

// Symlink is a symbolic link called name that says target.
func Symlink(name, target string) Entry {
	return Entry{Name: name, Type: tar.TypeSymlink, Link: target}
}

// Hardlink is another name for target, a path from the root of the image.
func Hardlink(name, target string) Entry {
	return Entry{Name: name, Type: tar.TypeLink, Link: target}
}

// Whiteout takes name away from the layers below.
func Whiteout(name string) Entry {
	dir, base := path.Split(name)
	return Entry{Name: dir + ".wh." + base}
}

// Opaque hides what the layers below have in the directory dir.
func Opaque(dir string) Entry { return Entry{Name: path.Join(dir, ".wh..wh..opq")} }

// Files is the entries of a map from path to content: directories first, each
// explicit, sorted.
func Files(files map[string]string) []Entry {
	dirs := map[string]bool{}
	names := make([]string, 0, len(files))
	for name := range files {
		names = append(names, name)
		for d := path.Dir(strings.Trim(name, "/")); d != "."; d = path.Dir(d) {
			dirs[d] = true
		}
	}
	sort.Strings(names)
	sorted := make([]string, 0, len(dirs))
	for d := range dirs {
		sorted = append(sorted, d)
	}
	sort.Strings(sorted)
	var out []Entry
	for _, d := range sorted {
		out = append(out, Directory(d+"/"))
	}
	for _, name := range names {
		out = append(out, File(strings.Trim(name, "/"), files[name]))
	}
	return out
}

// Tar writes the entries.
func Tar(t testing.TB, entries ...Entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		if e.Raw != nil {
			require.NoError(t, w.Flush())
			b.Write(e.Raw)
			continue
		}
		require.NoError(t, w.WriteHeader(e.header()), e.Name)
		if e.Size != 0 {
			b.WriteString(e.Body)
			return b.Bytes()
		}
		_, err := w.Write([]byte(e.Body))
		require.NoError(t, err, e.Name)
	}
	require.NoError(t, w.Close())
	return b.Bytes()
}

func (e Entry) header() *tar.Header {
	h := &tar.Header{
		Name: e.Name, Typeflag: e.Type, Linkname: e.Link, Mode: e.Mode,
		Size: int64(len(e.Body)), Uid: 1234, Gid: 1234, PAXRecords: e.PAX,
	}
	if h.Typeflag == 0 {
		h.Typeflag = tar.TypeReg
	}
	if h.Mode == 0 {
		h.Mode = 0o644
		if e.Type == tar.TypeDir {
			h.Mode = 0o755
		}
	}
	if e.Size != 0 {
		h.Size = e.Size
	}
	return h
}
