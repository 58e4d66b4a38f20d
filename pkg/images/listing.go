// SPDX-License-Identifier: Apache-2.0

package images

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/klauspost/compress/gzip"
	"golang.org/x/sys/unix"
)

// listing is what layers/<digest> keeps of a layer that was read and whose digest
// was right: as long as none of its files is wanted that the store has not got,
// it need not be fetched again. The file is the SHA-256 of what follows, and
// that is JSON, gzip.
type listing struct {
	Version int                   `json:"version"`
	Digest  string                `json:"digest"`
	Entries []listedEntry         `json:"entries"`
	Files   map[int]listedContent `json:"files"` // by ordinal, of those that were looked at
}

type listedEntry struct {
	Name    string `json:"n"`
	Link    string `json:"l,omitempty"`
	Size    int64  `json:"s,omitempty"`
	Ordinal int    `json:"o"`
	Kind    kind   `json:"k"`
}

type listedContent struct {
	Sum  string `json:"sum"`
	Size int64  `json:"size"`
}

func (s *Store) listingPath(hex string) string { return s.path(layersPart, hex) }

// layersPart is where listings lie in a store.
const layersPart = "layers"

// load makes layer i known from its listing, if there is one; what the store has
// of its files then counts as staged. It tries once.
func (j *job) load(i int) (bool, error) {
	hex := j.layers[i].Digest.Hex
	if j.known[hex] != nil || j.tried[hex] || !j.listable(i) {
		return j.known[hex] != nil, nil
	}
	j.tried[hex] = true
	l := j.store.readListing(hex, j.l.entries)
	if l == nil {
		return false, nil
	}
	if j.budget.entries.Add(-int64(len(l.Entries))) < 0 {
		return false, fmt.Errorf("%w: the layers have too many entries", ErrLimit)
	}
	data := &layerData{files: map[int]stagedFile{}, sums: map[int]listedContent{}}
	maps.Copy(data.sums, l.Files)
	for _, e := range l.Entries {
		data.entries = append(data.entries, entry{name: e.Name, link: e.Link, size: e.Size, ordinal: e.Ordinal, kind: e.Kind})
	}
	for ordinal, c := range l.Files {
		if crowded(j.store.content(c.Sum)) {
			continue // it is fetched when it is needed
		}
		f := stagedFile{name: stagedName(hex, ordinal), sum: c.Sum, size: c.Size}
		err := os.Link(j.store.content(c.Sum), filepath.Join(j.dir, f.name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return false, onDisk(err)
		}
		if sameContent(filepath.Join(j.dir, f.name), f) {
			data.files[ordinal] = f
		} else if err := os.Remove(filepath.Join(j.dir, f.name)); err != nil {
			return false, onDisk(err)
		}
	}
	j.known[hex] = data
	return true, nil
}

// crowded says whether a file has so many names that those which a pull gives it may be too many for the file system.
func crowded(path string) bool {
	var st unix.Stat_t
	return unix.Stat(path, &st) == nil && st.Nlink > maxLinks-maxFiles
}

// readListing returns nil for one that is missing, damaged, or of another
// version.
func (s *Store) readListing(hex string, entries int) *listing {
	b, err := os.ReadFile(s.listingPath(hex))
	if err != nil || len(b) < sha256.Size || len(b) > maxListing {
		return nil
	}
	sum := sha256.Sum256(b[sha256.Size:])
	if !bytes.Equal(sum[:], b[:sha256.Size]) {
		return nil
	}
	z, err := gzip.NewReader(bytes.NewReader(b[sha256.Size:]))
	if err != nil {
		return nil
	}
	var l listing
	if json.NewDecoder(io.LimitReader(z, maxUnpackedListing)).Decode(&l) != nil || l.Version != treeVersion ||
		l.Digest != hex || len(l.Entries) > entries {
		return nil
	}
	for _, c := range l.Files {
		if !isDigest("sha256:" + c.Sum) {
			return nil
		}
	}
	return &l
}

// saveListings keeps what a pull has learnt of layers. A listing that is lost in
// a crash is found to be so: it is not synced.
func (s *Store) saveListings(j *job) error {
	for hex, data := range j.known {
		if !data.learnt || len(data.entries) > maxListedEntries {
			continue
		}
		b, ok, err := data.listing(hex)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		if err := s.step("list layer"); err != nil {
			return err
		}
		tmp := filepath.Join(j.dir, "listing")
		if err := os.WriteFile(tmp, b, 0o600); err != nil {
			return err
		}
		if err := os.Rename(tmp, s.listingPath(hex)); err != nil {
			return err
		}
	}
	return nil
}

// listing is the file of d; ok is false for names JSON can not hold, and for one
// that is too large.
func (d *layerData) listing(hex string) (b []byte, ok bool, err error) {
	l := listing{Version: treeVersion, Digest: hex, Files: d.sums}
	for _, e := range d.entries {
		if !utf8.ValidString(e.name) || !utf8.ValidString(e.link) {
			return nil, false, nil
		}
		l.Entries = append(l.Entries, listedEntry{e.name, e.link, e.size, e.ordinal, e.kind})
	}
	var out bytes.Buffer
	out.Write(make([]byte, sha256.Size))
	z := gzip.NewWriter(&out)
	if err := errors.Join(json.NewEncoder(z).Encode(l), z.Close()); err != nil {
		return nil, false, err
	}
	b = out.Bytes()
	sum := sha256.Sum256(b[sha256.Size:])
	copy(b, sum[:])
	return b, len(b) <= maxListing, nil
}

// dropListings removes the listings of layers that no image in the store has,
// and the oldest of those left when they are too many.
func (s *Store) dropListings() error {
	needed := map[string]bool{}
	for _, key := range s.keys() {
		if t, err := loadTree(s.path("trees", key)); err == nil {
			for _, d := range t.layers {
				needed[strings.TrimPrefix(d, "sha256:")] = true
			}
		}
	}
	entries, err := os.ReadDir(s.path(layersPart))
	if err != nil {
		return err
	}
	var infos []fs.FileInfo
	for _, e := range entries {
		if info, err := e.Info(); err == nil {
			infos = append(infos, info)
		}
	}
	slices.SortFunc(infos, func(a, b fs.FileInfo) int { return b.ModTime().Compare(a.ModTime()) })
	var total int64
	for _, info := range infos {
		if total += info.Size(); needed[info.Name()] && total <= maxListings {
			continue
		}
		total -= info.Size()
		if err := s.step("drop listing"); err != nil {
			return err
		}
		if err := ignoreMissing(os.Remove(s.listingPath(info.Name()))); err != nil {
			return err
		}
	}
	return nil
}
