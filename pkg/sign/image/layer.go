// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"strings"

	"github.com/klauspost/compress/gzip"

	"github.com/kmm-node/kmmd/pkg/images"
	"github.com/kmm-node/kmmd/pkg/kmod"
	"github.com/kmm-node/kmmd/pkg/sign"
)

// What is held in memory.
const (
	// Bytes of one module file, packed and unpacked; with all debug information the
	// largest have 100 MB. What unpacks to more is found out by unpacking it, for which
	// pkg/kmod has a limit.
	maxModule = 256 << 20
	maxLayer  = 512 << 20 // bytes of the new layer, compressed
	firstRead = 16 << 20  // bytes that have to be there before there is room for all that a header says
)

// layer is the new one. The bytes depend on what goes in and on the compressor:
// klauspost's, whose version go.mod fixes, where the one of the standard library
// changes with the toolchain.
type layer struct {
	blob  bytes.Buffer
	files int // signed ones

	sum  hash.Hash // of the tar
	gzip *gzip.Writer
	tar  *tar.Writer
}

const gzipLevel = 6

func newLayer() (*layer, error) {
	l := &layer{sum: sha256.New()}
	var err error
	if l.gzip, err = gzip.NewWriterLevel(&l.blob, gzipLevel); err != nil {
		return nil, err
	}
	l.tar = tar.NewWriter(io.MultiWriter(l.gzip, l.sum))
	return l, nil
}

// diffID is the digest of the layer unpacked.
func (l *layer) diffID() string { return "sha256:" + hex.EncodeToString(l.sum.Sum(nil)) }

// layer signs those of the files that are not signed yet, and makes a layer of them.
func (r *resigner) layer(ctx context.Context, raw []byte, files []images.File) (*layer, error) {
	l, err := newLayer()
	if err != nil {
		return nil, err
	}
	names := slices.Clone(files)
	slices.SortFunc(names, func(a, b images.File) int { return strings.Compare(a.Path, b.Path) })
	names = slices.CompactFunc(names, func(a, b images.File) bool { return a.Path == b.Path })
	err = r.src.Visit(ctx, raw, names, func(f images.File, h *tar.Header, content io.Reader) error {
		module, err := r.sign(f, content)
		if err != nil || module == nil {
			return err
		}
		return l.add(f, names, h, module)
	})
	if err != nil {
		return nil, err
	}
	return l, errors.Join(l.tar.Close(), l.gzip.Close())
}

// sign returns the file as it has to be, nil when it is that already.
func (r *resigner) sign(f images.File, content io.Reader) ([]byte, error) {
	if f.Size > r.moduleSize {
		return nil, fmt.Errorf("%w: %s has %d bytes, more than %d", images.ErrLimit, f.Path, f.Size, r.moduleSize)
	}
	var file bytes.Buffer
	for _, part := range []int64{min(f.Size, firstRead), f.Size - min(f.Size, firstRead)} {
		file.Grow(int(part))
		if _, err := io.CopyN(&file, content, part); err != nil {
			return nil, err
		}
	}
	kept := false
	signed, err := kmod.Rewrite(file.Bytes(), func(plain []byte) ([]byte, error) {
		if int64(len(plain)) > r.moduleSize {
			return nil, fmt.Errorf("%w: it unpacks to %d bytes, more than %d", images.ErrLimit, len(plain), r.moduleSize)
		}
		if kept = r.signer.Signed(plain); kept {
			return plain, nil
		}
		return r.signer.Sign(plain)
	})
	switch {
	case errors.Is(err, kmod.ErrFormat):
		return nil, fmt.Errorf("sign %s: %w: %w", f.Path, sign.ErrNotModule, err)
	case err != nil:
		return nil, fmt.Errorf("sign %s: %w", f.Path, err)
	case kept:
		return nil, nil
	}
	return signed, nil
}

// add writes the signed file f under each of the names that stand for it: a hard
// link stays one.
func (l *layer) add(f images.File, names []images.File, old *tar.Header, module []byte) error {
	h := header(old)
	h.Name, h.Size = f.Path[1:], int64(len(module))
	err := l.tar.WriteHeader(h)
	if err == nil {
		_, err = l.tar.Write(module)
	}
	l.files++
	for _, n := range names {
		if err != nil {
			break
		}
		if n.Path == f.Path || !n.SameContent(f) {
			continue
		}
		link := header(old)
		link.Typeflag, link.Name, link.Linkname = tar.TypeLink, n.Path[1:], f.Path[1:]
		err = l.tar.WriteHeader(link)
	}
	if err != nil {
		return fmt.Errorf("write %s to the new layer: %w", f.Path, err)
	}
	if l.blob.Len() > maxLayer {
		return fmt.Errorf("%w: the signed files have more than %d bytes, compressed", images.ErrLimit, maxLayer)
	}
	return nil
}

// header keeps what a file has but its name and content: mode, owner, time,
// extended attributes. Those that say something about the content are not true any
// more (security.ima: evm(7) and ima_policy of the kernel).
func header(old *tar.Header) *tar.Header {
	h := &tar.Header{
		Typeflag: tar.TypeReg, Mode: old.Mode & 0o7777, Uid: old.Uid, Gid: old.Gid,
		Uname: old.Uname, Gname: old.Gname, ModTime: old.ModTime, PAXRecords: map[string]string{},
	}
	const xattr = "SCHILY.xattr."
	for name, value := range old.PAXRecords {
		if strings.HasPrefix(name, xattr) && name != xattr+"security.ima" && name != xattr+"security.evm" {
			h.PAXRecords[name] = value
		}
	}
	return h
}
