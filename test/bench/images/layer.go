// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"
)

// layer is a compressed layer in a file. It is a v1.Layer.
type layer struct {
	file string
	meta layerMeta
}

// layerMeta is kept beside the file.
type layerMeta struct {
	Digest, DiffID v1.Hash
	Size, Unpacked int64
	Type           types.MediaType
	Of             string // what it was made of
}

var _ v1.Layer = (*layer)(nil)

func (l *layer) Digest() (v1.Hash, error)             { return l.meta.Digest, nil }
func (l *layer) DiffID() (v1.Hash, error)             { return l.meta.DiffID, nil }
func (l *layer) Compressed() (io.ReadCloser, error)   { return os.Open(l.file) }
func (l *layer) Size() (int64, error)                 { return l.meta.Size, nil }
func (l *layer) MediaType() (types.MediaType, error)  { return l.meta.Type, nil }
func (l *layer) Uncompressed() (io.ReadCloser, error) { return nil, errors.ErrUnsupported }

// loadLayer returns a layer made before.
func loadLayer(file string) (*layer, error) {
	b, err := os.ReadFile(file + ".json")
	if err != nil {
		return nil, err
	}
	l := &layer{file: file}
	return l, json.Unmarshal(b, &l.meta)
}

// makeLayer packs the directory tree into file: sorted, owned by root, with one
// date, so that the same tree always is the same layer.
func makeLayer(file, tree, of string, mediaType types.MediaType) (*layer, error) {
	f, err := os.Create(file)
	if err != nil {
		return nil, err
	}
	packed, plain := &counter{hash: sha256.New()}, &counter{hash: sha256.New()}
	out := io.MultiWriter(f, packed)
	var z io.WriteCloser = gzip.NewWriter(out)
	if mediaType == types.OCILayerZStd {
		if z, err = zstd.NewWriter(out); err != nil {
			return nil, err
		}
	}
	w := tar.NewWriter(io.MultiWriter(z, plain))
	if err := errors.Join(addTree(w, tree), w.Close(), z.Close(), f.Close()); err != nil {
		return nil, fmt.Errorf("pack %s: %w", tree, err)
	}
	l := &layer{file: file, meta: layerMeta{
		Digest: packed.digest(), DiffID: plain.digest(), Size: packed.n, Unpacked: plain.n, Type: mediaType, Of: of,
	}}
	b, err := json.Marshal(l.meta)
	if err != nil {
		return nil, err
	}
	return l, os.WriteFile(file+".json", b, 0o644)
}

// counter counts and hashes.
type counter struct {
	n    int64
	hash hash.Hash
}

func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return c.hash.Write(p)
}

func (c *counter) digest() v1.Hash {
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(c.hash.Sum(nil))}
}

// epoch is the date of everything in the images.
var epoch = time.Unix(1_700_000_000, 0)

func addTree(w *tar.Writer, tree string) error {
	links := map[uint64]string{} // inode to first name
	return filepath.WalkDir(tree, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == tree {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		name, err := filepath.Rel(tree, path)
		if err != nil {
			return err
		}
		var target string
		if info.Mode()&fs.ModeSymlink != 0 {
			if target, err = os.Readlink(path); err != nil {
				return err
			}
		}
		h, err := tar.FileInfoHeader(info, target)
		if err != nil {
			return err
		}
		*h = tar.Header{Name: name, Typeflag: h.Typeflag, Mode: h.Mode, Size: h.Size, Linkname: target, ModTime: epoch}
		if d.IsDir() {
			h.Name += "/"
		}
		stat := info.Sys().(*syscall.Stat_t)
		if first := links[stat.Ino]; h.Typeflag == tar.TypeReg && first != "" {
			h.Typeflag, h.Size, h.Linkname = tar.TypeLink, 0, first
		} else if h.Typeflag == tar.TypeReg && stat.Nlink > 1 {
			links[stat.Ino] = name
		}
		if err := w.WriteHeader(h); err != nil || h.Typeflag != tar.TypeReg {
			return err
		}
		return addFile(w, path)
	})
}

func addFile(w io.Writer, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(w, f)
	return err
}
