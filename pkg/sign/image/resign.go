// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"encoding/json"
	"fmt"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/kmm-node/kmmd/pkg/images"
	"github.com/kmm-node/kmmd/pkg/sign"
)

// resigner signs one source.
type resigner struct {
	src    *images.Image
	signer *sign.Signer
	globs  []images.Glob
	found  []images.Found // of each glob, in all images so far
	signed int

	moduleSize int64 // bytes of a module
}

// manifest makes the new image or index out of one of the source.
func (r *resigner) manifest(ctx context.Context, raw []byte, depth int) (*manifest, error) {
	p, index, err := parse(raw, depth)
	if err != nil {
		return nil, err
	}
	if index {
		return r.index(ctx, raw, p, depth)
	}
	return r.image(ctx, raw, p)
}

// index makes a new index of the signed images. What only says something about an
// image of the source, as BuildKit's attestations do, is left out when there is
// another image now: it would be about nothing.
func (r *resigner) index(ctx context.Context, raw []byte, p parsed, depth int) (*manifest, error) {
	out := &manifest{raw: raw, mediaType: p.MediaType}
	now := map[string]*manifest{} // by the digest in the source
	for _, desc := range p.Manifests {
		child, err := r.src.Manifest(ctx, desc.Digest.String())
		if err != nil {
			return nil, err
		}
		var m *manifest
		if aboutAnother(desc) != "" || elsewhere(desc) {
			m, err = read(ctx, r.src, child, depth+1)
		} else {
			m, err = r.manifest(ctx, child, depth+1)
		}
		if err != nil {
			return nil, fmt.Errorf("image %s%s: %w", desc.Digest, platformOf(desc), err)
		}
		now[desc.Digest.String()] = m
		out.changed = out.changed || m.changed
	}
	if !out.changed {
		for _, desc := range p.Manifests {
			out.children = append(out.children, now[desc.Digest.String()])
		}
		return out, nil
	}
	doc, err := parseObject(raw)
	if err != nil {
		return nil, err
	}
	var list []object
	if err := doc.get("manifests", &list); err != nil || len(list) != len(p.Manifests) {
		return nil, fmt.Errorf("%w: the index has no plain list of manifests", images.ErrUnsafe)
	}
	var kept []object
	for i, desc := range p.Manifests {
		if about := now[aboutAnother(desc)]; about != nil && about.changed {
			continue
		}
		m := now[desc.Digest.String()]
		if m.changed {
			list[i].set("digest", m.digest().String())
			list[i].set("size", len(m.raw))
			delete(list[i], "data")
		}
		kept = append(kept, list[i])
		out.children = append(out.children, m)
	}
	doc.set("manifests", kept)
	if err := r.annotate(doc, p.MediaType, hashOf(raw)); err != nil {
		return nil, err
	}
	out.raw, err = json.Marshal(doc)
	return out, err
}

// aboutAnother is the digest of the image that a manifest of an index is about, ""
// for one that is an image itself.
func aboutAnother(desc v1.Descriptor) string {
	if desc.Annotations["vnd.docker.reference.type"] == "" { // of BuildKit
		return ""
	}
	if about := desc.Annotations["vnd.docker.reference.digest"]; about != "" {
		return about
	}
	return "unknown"
}

// elsewhere is an image for another system than Linux, which stays as it is.
func elsewhere(desc v1.Descriptor) bool {
	return desc.Platform != nil && desc.Platform.OS != "" && desc.Platform.OS != "linux"
}

func platformOf(desc v1.Descriptor) string {
	if desc.Platform == nil {
		return ""
	}
	return " for " + desc.Platform.String()
}

// image makes the new image, or returns the source's if there is nothing to sign.
func (r *resigner) image(ctx context.Context, raw []byte, p parsed) (*manifest, error) {
	switch p.Config.MediaType {
	case types.OCIConfigJSON, types.DockerConfigJSON:
	default:
		return nil, fmt.Errorf("%w: it is an artifact of type %q and no image: sign its files with kmmd sign and push it again",
			images.ErrUnsafe, p.Config.MediaType)
	}
	found, err := r.src.Find(ctx, raw, r.globs)
	if err != nil {
		return nil, err
	}
	var files []images.File
	for i, f := range found {
		files = append(files, f.Files...)
		r.found[i].Files = append(r.found[i].Files, f.Files...)
		r.found[i].Near = append(r.found[i].Near, f.Near...)
	}
	l, err := r.layer(ctx, raw, files)
	if err != nil {
		return nil, err
	}
	out := &manifest{raw: raw, mediaType: p.MediaType}
	if out.blobs, err = sourceBlobs(ctx, r.src, p); err != nil || l.files == 0 {
		return out, err
	}
	r.signed += l.files
	return out, r.add(ctx, out, p, l)
}

// add appends the layer to the image m.
func (r *resigner) add(ctx context.Context, m *manifest, p parsed, l *layer) error {
	base := m.digest()
	config, err := r.src.ReadBlob(ctx, p.Config, maxConfig)
	if err != nil {
		return err
	}
	if config, err = r.config(config, l, base, len(p.Layers)); err != nil {
		return err
	}
	layerType := types.OCILayer
	if p.MediaType == types.DockerManifestSchema2 {
		layerType = types.DockerLayer
	}
	blob := static.NewLayer(l.blob.Bytes(), layerType)
	doc, err := parseObject(m.raw)
	if err != nil {
		return err
	}
	var layers []json.RawMessage
	var configDesc object
	if err := doc.get("layers", &layers); err != nil {
		return err
	}
	if err := doc.get("config", &configDesc); err != nil {
		return err
	}
	desc, err := json.Marshal(map[string]any{"mediaType": layerType, "digest": hashOf(l.blob.Bytes()), "size": l.blob.Len()})
	if err != nil {
		return err
	}
	configDesc.set("digest", hashOf(config).String())
	configDesc.set("size", len(config))
	delete(configDesc, "data")
	doc.set("layers", append(layers, desc))
	doc.set("config", configDesc)
	if err := r.annotate(doc, p.MediaType, base); err != nil {
		return err
	}
	m.raw, err = json.Marshal(doc)
	last := len(m.blobs) - 1 // the configuration
	m.blobs, m.changed = append(m.blobs[:last:last], blob, static.NewLayer(config, p.Config.MediaType)), true
	return err
}
