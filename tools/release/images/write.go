// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// write makes the layout DIR/NAME anew, and the bills of materials beside it. The
// layout has the one index, under its tag: not every program that reads layouts
// copes with more.
func (x *index) write(dir string) error {
	to := filepath.Join(dir, x.name)
	if _, err := os.Stat(to); err == nil {
		// Something else of that name is not ours to remove.
		if _, err := os.Stat(filepath.Join(to, "oci-layout")); err != nil {
			return fmt.Errorf("write layout: %s is there and is none: %w", to, err)
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("write layout: %w", err)
	}
	if err := os.RemoveAll(to); err != nil {
		return fmt.Errorf("write layout: %w", err)
	}
	l, err := layout.Write(to, empty.Index)
	if err == nil {
		err = l.AppendIndex(x.index, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": x.tag}))
	}
	if err != nil {
		return fmt.Errorf("write layout %s: %w", to, err)
	}
	for _, p := range x.platforms {
		if err := os.WriteFile(filepath.Join(dir, x.name+".linux-"+p.arch+".spdx.json"), p.sbom, 0o644); err != nil {
			return fmt.Errorf("write bill of materials: %w", err)
		}
	}
	return nil
}

// push writes the index to REPOSITORY/NAME:TAG, and to each of its images the bill
// of materials as a referrer, which gives the reference by digest.
func (x *index) push(repository string, insecure bool, keys authn.Keychain) (string, error) {
	var opts []name.Option
	if insecure {
		opts = append(opts, name.Insecure)
	}
	tag, err := name.NewTag(strings.TrimSuffix(repository, "/")+"/"+x.name+":"+x.tag, opts...)
	if err != nil {
		return "", fmt.Errorf("push: %w", err)
	}
	auth := remote.WithAuthFromKeychain(keys)
	if err := remote.WriteIndex(tag, x.index, auth); err != nil {
		return "", fmt.Errorf("push %s: %w", tag, err)
	}
	for _, p := range x.platforms {
		bill, err := p.referrer()
		if err != nil {
			return "", err
		}
		digest, err := bill.Digest()
		if err != nil {
			return "", fmt.Errorf("push bill of materials: %w", err)
		}
		if err := remote.Write(tag.Context().Digest(digest.String()), bill, auth); err != nil {
			return "", fmt.Errorf("push bill of materials of %s: %w", tag, err)
		}
	}
	digest, err := x.index.Digest()
	if err != nil {
		return "", fmt.Errorf("push %s: %w", tag, err)
	}
	return tag.Context().Digest(digest.String()).String(), nil
}

// referrer is the bill of materials as an artifact that names its image: OCI image
// specification 1.1, manifest.md, "Guidelines for Artifact Usage". The type is that
// of the configuration, which registries of before 1.1 look at as well.
func (p platform) referrer() (v1.Image, error) {
	subject, err := partial.Descriptor(p.image)
	if err != nil {
		return nil, fmt.Errorf("attach bill of materials: %w", err)
	}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), spdxType)
	img, err = mutate.Append(img, mutate.Addendum{Layer: static.NewLayer(p.sbom, spdxType), MediaType: spdxType})
	if err != nil {
		return nil, fmt.Errorf("attach bill of materials: %w", err)
	}
	return mutate.Subject(img, v1.Descriptor{MediaType: subject.MediaType, Size: subject.Size, Digest: subject.Digest}).(v1.Image), nil
}
