// SPDX-License-Identifier: Apache-2.0

package images

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// resolved is a reference that the registry has answered.
type resolved struct {
	digest   string // what the reference stands for: of an index, if there is one
	manifest []byte // of that digest
	named    bool   // it was asked for by a digest
}

// resolve asks what the reference of q stands for now.
func resolve(ctx context.Context, src source, q *query) (*resolved, error) {
	r := &resolved{named: isDigest(q.ref.Identifier())}
	var err error
	if r.manifest, r.digest, err = src.manifest(ctx, q.ref.Identifier()); err != nil {
		return nil, r.passing(err)
	}
	return r, nil
}

// passing adds ErrManifest to what is wrong with the answer for a tag.
func (r *resolved) passing(err error) error {
	if !r.named && (errors.Is(err, ErrUnsafe) || errors.Is(err, ErrLimit)) {
		return fmt.Errorf("%w: %w", ErrManifest, err)
	}
	return err
}

// readLayers returns the layers of the image for this machine, lowest first,
// checked against the limits.
func readLayers(ctx context.Context, src source, r *resolved, l limits) ([]v1.Descriptor, error) {
	raw := r.manifest
	for depth := 0; ; depth++ {
		index, err := isIndex(raw)
		if err != nil {
			return nil, err
		}
		if !index {
			return checkLayers(raw, l)
		}
		if depth == maxIndexDepth {
			return nil, fmt.Errorf("%w: indexes nested more than %d deep", ErrLimit, maxIndexDepth)
		}
		desc, err := pickPlatform(raw)
		if err != nil {
			return nil, err
		}
		if raw, _, err = src.manifest(ctx, desc.Digest.String()); err != nil {
			return nil, err
		}
	}
}

// isIndex tells an index from an image by content, which the digest covers;
// the Content-Type it does not. What could be both is refused (OCI image spec
// CVE-2021-41190).
func isIndex(raw []byte) (bool, error) {
	var probe struct {
		SchemaVersion int             `json:"schemaVersion"`
		MediaType     types.MediaType `json:"mediaType"`
		Manifests     json.RawMessage `json:"manifests"`
		Layers        json.RawMessage `json:"layers"`
	}
	if err := json.Unmarshal(raw, &probe); err != nil {
		return false, fmt.Errorf("%w: parse manifest: %w", ErrUnsafe, err)
	}
	index, image := probe.Manifests != nil, probe.Layers != nil
	switch {
	case probe.SchemaVersion != 2:
		return false, fmt.Errorf("%w: manifest schema %d is not supported: push the image again with a current tool",
			ErrUnsafe, probe.SchemaVersion)
	case index == image,
		index && probe.MediaType != "" && !probe.MediaType.IsIndex(),
		image && probe.MediaType != "" && !probe.MediaType.IsImage():
		return false, fmt.Errorf("%w: manifest is not clearly an image or an index", ErrUnsafe)
	}
	return index, nil
}

// pickPlatform finds the image for this machine in an index. Attestations,
// which BuildKit puts there for "unknown/unknown", are no images.
func pickPlatform(raw []byte) (v1.Descriptor, error) {
	index, err := v1.ParseIndexManifest(bytes.NewReader(raw))
	if err != nil {
		return v1.Descriptor{}, fmt.Errorf("%w: parse index: %w", ErrUnsafe, err)
	}
	var bare []v1.Descriptor
	var others []string
	for _, desc := range index.Manifests {
		switch p := desc.Platform; {
		case desc.Annotations["vnd.docker.reference.type"] != "" || !isDigest(desc.Digest.String()):
		case p == nil:
			bare = append(bare, desc)
		case p.OS == "linux" && p.Architecture == runtime.GOARCH && runsHere(p.Variant):
			return desc, nil
		case p.OS != "unknown":
			others = append(others, p.String())
		}
	}
	if len(bare) == 1 && len(others) == 0 {
		return bare[0], nil
	}
	return v1.Descriptor{}, fmt.Errorf("%w: the index has no image for %s, only for [%s]: build it for this machine too",
		ErrNotFound, platform(), strings.Join(others, " "))
}

// runsHere says whether every machine of this GOARCH can run the variant; v8
// is the only one of arm64 that people write, v1 the lowest of amd64.
func runsHere(variant string) bool {
	return slices.Contains([]string{"", "v1", "v8"}, variant)
}

// layerTypes are the media types of layers that can be read.
func layerTypes() []types.MediaType {
	return []types.MediaType{
		types.OCILayer, types.OCILayerZStd, types.OCIUncompressedLayer,
		types.DockerLayer, types.DockerUncompressedLayer,
		"application/vnd.docker.image.rootfs.diff.tar.zstd", // written by buildah and nerdctl
	}
}

func checkLayers(raw []byte, l limits) ([]v1.Descriptor, error) {
	m, err := v1.ParseManifest(bytes.NewReader(raw))
	if err != nil {
		return nil, fmt.Errorf("%w: parse manifest: %w", ErrUnsafe, err)
	}
	if len(m.Layers) == 0 || len(m.Layers) > maxLayers {
		return nil, fmt.Errorf("%w: %d layers, not 1 to %d", ErrLimit, len(m.Layers), maxLayers)
	}
	var total int64
	for i, desc := range m.Layers {
		if m.Layers[i], err = layerOf(desc, len(m.Layers) == 1); err != nil {
			return nil, err
		}
		switch {
		case !isDigest(desc.Digest.String()):
			return nil, fmt.Errorf("%w: layer digest %q is not sha256", ErrUnsafe, desc.Digest)
		case desc.Size <= 0:
			return nil, fmt.Errorf("%w: layer %s has %d bytes", ErrUnsafe, desc.Digest, desc.Size)
		case desc.Size > l.imageSize-total:
			return nil, fmt.Errorf("%w: the layers have more than %d bytes", ErrLimit, l.imageSize)
		}
		total += desc.Size
	}
	return m.Layers, nil
}
