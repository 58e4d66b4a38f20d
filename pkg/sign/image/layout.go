// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/kmm-node/kmmd/pkg/images"
)

// layout is a directory with an OCI image layout (image-spec, image-layout.md) to
// write to. Somebody else may have made it: no symlink in it leads out.
type layout struct{ path, tag string }

const (
	layoutFile    = "oci-layout"
	layoutContent = `{"imageLayoutVersion":"1.0.0"}`
	indexFile     = "index.json"
	blobsDir      = "blobs/sha256"
	annotationTag = "org.opencontainers.image.ref.name" // image-spec, annotations.md
	maxIndex      = 4 << 20                             // bytes of index.json
	layoutMode    = 0o644
)

func (l layout) is(p Place) bool {
	path, tag, ok, err := images.Layout(p.Ref)
	return ok && err == nil && path == l.path && tag == l.tag
}

// write puts m, and all below it, into the layout, index.json last. An image of the
// same tag is replaced; its blobs stay.
func (l layout) write(_ context.Context, _ *Options, m *manifest) error {
	if err := os.MkdirAll(l.path, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(l.path)
	if err != nil {
		return err
	}
	defer root.Close()
	index, err := l.readIndex(root)
	if err != nil {
		return err
	}
	if err := root.MkdirAll(blobsDir, 0o755); err != nil {
		return err
	}
	if err := writeFile(root, layoutFile, strings.NewReader(layoutContent)); err != nil {
		return err
	}
	if err := writeBlobs(root, m); err != nil {
		return err
	}
	desc := v1.Descriptor{MediaType: m.mediaType, Digest: m.digest(), Size: int64(len(m.raw))}
	if l.tag != "" {
		desc.Annotations = map[string]string{annotationTag: l.tag}
	}
	index.Manifests = append(index.Manifests, desc)
	raw, err := json.Marshal(index)
	if err != nil {
		return err
	}
	return writeFile(root, indexFile, bytes.NewReader(raw))
}

// readIndex is the index without the image that is to be replaced.
func (l layout) readIndex(root *os.Root) (*v1.IndexManifest, error) {
	index := &v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex}
	f, err := root.Open(indexFile)
	if errors.Is(err, fs.ErrNotExist) {
		return index, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := json.NewDecoder(io.LimitReader(f, maxIndex)).Decode(index); err != nil {
		return nil, fmt.Errorf("%w: read %s: %w", images.ErrUnsafe, indexFile, err)
	}
	if l.tag == "" && len(index.Manifests) > 1 {
		return nil, fmt.Errorf("%w: the layout has %d images: say which one by a tag, oci:%s:TAG", images.ErrInvalidRef, len(index.Manifests), l.path)
	}
	kept := index.Manifests[:0]
	for _, desc := range index.Manifests {
		if l.tag != "" && desc.Annotations[annotationTag] != l.tag {
			kept = append(kept, desc)
		}
	}
	index.Manifests = kept
	return index, nil
}

func writeBlobs(root *os.Root, m *manifest) error {
	for _, child := range m.children {
		if err := writeBlobs(root, child); err != nil {
			return err
		}
	}
	for _, b := range m.blobs {
		digest, err := b.Digest()
		if err != nil {
			return err
		}
		if has(root, digest) {
			continue
		}
		r, err := b.Compressed()
		if err != nil {
			return err
		}
		if err := errors.Join(writeFile(root, blobsDir+"/"+digest.Hex, r), r.Close()); err != nil {
			return err
		}
	}
	return writeFile(root, blobsDir+"/"+m.digest().Hex, bytes.NewReader(m.raw))
}

// has says whether the blob is there and what its name says.
func has(root *os.Root, digest v1.Hash) bool {
	name := blobsDir + "/" + digest.Hex
	if info, err := root.Lstat(name); err != nil || !info.Mode().IsRegular() {
		return false
	}
	f, err := root.Open(name)
	if err != nil {
		return false
	}
	defer f.Close()
	sum := sha256.New()
	_, err = io.Copy(sum, f)
	return err == nil && hex.EncodeToString(sum.Sum(nil)) == digest.Hex
}

// writeFile makes a file, or replaces it once its content is there.
func writeFile(root *os.Root, name string, content io.Reader) error {
	tmp := name + ".tmp"
	if err := root.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := root.OpenFile(tmp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, layoutMode)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, content)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = root.Rename(tmp, name)
	}
	if err != nil {
		_ = root.Remove(tmp) // the error is told
	}
	return err
}
