// SPDX-License-Identifier: Apache-2.0

package imagestest

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/stretchr/testify/require"
)

// Part is one layer of an artifact, which may be any file.
type Part struct {
	Data        []byte
	Type        types.MediaType
	Annotations map[string]string
}

// Titled is a file called title, as oras pushes it.
func Titled(title string, data string, mediaType types.MediaType) Part {
	return Part{Data: []byte(data), Type: mediaType, Annotations: map[string]string{"org.opencontainers.image.title": title}}
}

// Manifest is what an artifact says of itself (image-spec 1.1, manifest.md).
type Manifest struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     types.MediaType   `json:"mediaType"`
	ArtifactType  string            `json:"artifactType,omitempty"`
	Config        v1.Descriptor     `json:"config"`
	Layers        []v1.Descriptor   `json:"layers"`
	Subject       *v1.Descriptor    `json:"subject,omitempty"`
	Annotations   map[string]string `json:"annotations,omitempty"`
}

// artifact is a partial.CompressedImageCore.
type artifact struct {
	raw    []byte
	layers map[v1.Hash]v1.Layer
}

// emptyConfig is the config of what needs none (image-spec 1.1, manifest.md).
const emptyConfig = "{}"

// Artifact makes an OCI artifact; the fields of m that parts say are overwritten.
func Artifact(t testing.TB, m Manifest, parts ...Part) v1.Image {
	t.Helper()
	a := &artifact{layers: map[v1.Hash]v1.Layer{}}
	m.SchemaVersion, m.MediaType, m.Layers = 2, types.OCIManifestSchema1, nil
	m.Config = v1.Descriptor{
		MediaType: "application/vnd.oci.empty.v1+json", Size: int64(len(emptyConfig)), Digest: hashOf([]byte(emptyConfig)),
	}
	for _, p := range parts {
		desc := v1.Descriptor{MediaType: p.Type, Size: int64(len(p.Data)), Digest: hashOf(p.Data), Annotations: p.Annotations}
		m.Layers = append(m.Layers, desc)
		a.layers[desc.Digest] = static.NewLayer(p.Data, p.Type)
	}
	var err error
	a.raw, err = json.Marshal(m)
	require.NoError(t, err)
	img, err := partial.CompressedToImage(a)
	require.NoError(t, err)
	return img
}

// PushImage pushes any image to ref, and returns its digest.
func PushImage(t testing.TB, ref string, img v1.Image) string {
	t.Helper()
	tag, err := name.ParseReference(ref, name.Insecure)
	require.NoError(t, err)
	require.NoError(t, remote.Write(tag, img, remote.WithContext(t.Context())))
	digest, err := img.Digest()
	require.NoError(t, err)
	return digest.String()
}

// RawConfigFile implements partial.CompressedImageCore.
func (a *artifact) RawConfigFile() ([]byte, error) { return []byte(emptyConfig), nil }

// MediaType implements partial.CompressedImageCore.
func (a *artifact) MediaType() (types.MediaType, error) { return types.OCIManifestSchema1, nil }

// RawManifest implements partial.CompressedImageCore.
func (a *artifact) RawManifest() ([]byte, error) { return a.raw, nil }

// LayerByDigest implements partial.CompressedImageCore.
func (a *artifact) LayerByDigest(h v1.Hash) (partial.CompressedLayer, error) {
	if h == hashOf([]byte(emptyConfig)) {
		return static.NewLayer([]byte(emptyConfig), "application/vnd.oci.empty.v1+json"), nil
	}
	l, ok := a.layers[h]
	if !ok {
		return nil, fmt.Errorf("no layer %s", h)
	}
	return l, nil
}
