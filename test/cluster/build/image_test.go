// SPDX-License-Identifier: Apache-2.0

package build

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/stretchr/testify/require"
)

// tinyImage has busybox, a module that is not signed, and the program hunt.
func tinyImage() (v1.Image, error) {
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	at := "opt/lib/modules/" + release
	for _, dir := range []string{"bin", "tmp", "run", "proc", "opt", "opt/lib", "opt/lib/modules", at} {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755}); err != nil {
			return nil, err
		}
	}
	for path, source := range map[string]string{
		"bin/busybox": "/bin/busybox", "hunt": hunter, at + "/kmm_sleep.ko": filepath.Join(repository, ".lab", release, "modules-oot", "kmm_sleep.ko"),
	} {
		data, err := os.ReadFile(source)
		if err != nil {
			return nil, fmt.Errorf("make a small image: %w (run test/vm/setup)", err)
		}
		if err := w.WriteHeader(&tar.Header{Name: path, Mode: 0o755, Size: int64(len(data))}); err != nil {
			return nil, err
		}
		if _, err := w.Write(data); err != nil {
			return nil, err
		}
	}
	for _, tool := range []string{"sh", "sleep", "wget"} {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + tool, Linkname: "busybox", Mode: 0o777}); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	image, err := mutate.Append(mutate.MediaType(empty.Image, types.OCIManifestSchema1), mutate.Addendum{
		Layer: static.NewLayer(layer.Bytes(), types.OCIUncompressedLayer),
	})
	if err != nil {
		return nil, err
	}
	return mutate.Config(mutate.ConfigMediaType(image, types.OCIConfigJSON), v1.Config{Env: []string{"PATH=/bin"}})
}

// tinyDockerfile takes the module out of the small image, after it has done some
// lines more.
func tinyDockerfile(lines string) string {
	return "FROM " + tiny + " AS build\n" + lines + "\nFROM scratch\nCOPY --from=build /opt /opt\n"
}

// tinyModule is where it is, in both.
const tinyModule = "/opt/lib/modules/${KERNEL_FULL_VERSION}/kmm_sleep.ko"

func options(t *testing.T) []remote.Option {
	return []remote.Option{remote.WithContext(t.Context()), remote.WithAuth(&authn.Basic{Username: "user", Password: pushPassword})}
}

// push pushes an image as somebody else would.
func (w *world) push(ref string, image v1.Image) {
	w.t.Helper()
	tag, err := name.NewTag(ref, name.Insecure)
	require.NoError(w.t, err)
	require.NoError(w.t, remote.Write(tag, image, options(w.t)...))
}

// pulled is an image of the registry.
func (w *world) pulled(ref string) v1.Image {
	w.t.Helper()
	tag, err := name.ParseReference(ref, name.Insecure)
	require.NoError(w.t, err)
	img, err := remote.Image(tag, options(w.t)...)
	require.NoError(w.t, err)
	return img
}

// file of an image, as a container would see it.
func file(t *testing.T, image v1.Image, path string) []byte {
	t.Helper()
	files := mutate.Extract(image)
	defer files.Close()
	for r := tar.NewReader(files); ; {
		header, err := r.Next()
		require.NoError(t, err, "looking for %s", path)
		if header.Name == path {
			data, err := io.ReadAll(r)
			require.NoError(t, err)
			return data
		}
	}
}

// module is the one that tinyDockerfile puts into an image.
func (w *world) module(ref string) []byte {
	w.t.Helper()
	return file(w.t, w.pulled(ref), "opt/lib/modules/"+release+"/kmm_sleep.ko")
}
