// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// pushImages gives the registry an image for each scenario.
func pushImages(o options) error {
	for _, s := range scenarios() {
		if err := pushImage(s.image(o.push), s.paths(filepath.Join(o.bench, "node-"+o.release)), "opt/lib/modules/"+o.release); err != nil {
			return err
		}
	}
	return nil
}

// pushImage pushes an image of one layer, a plain tar, with these files in dir.
func pushImage(reference string, files []string, dir string) error {
	ref, err := name.ParseReference(reference, name.Insecure)
	if err != nil {
		return err
	}
	layer, err := layerOf(files, dir)
	if err != nil {
		return err
	}
	config, err := empty.Image.ConfigFile()
	if err != nil {
		return err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", "amd64"
	image, err := mutate.ConfigFile(empty.Image, config)
	if err != nil {
		return err
	}
	if image, err = mutate.AppendLayers(mutate.MediaType(image, types.OCIManifestSchema1), static.NewLayer(layer, types.OCIUncompressedLayer)); err != nil {
		return err
	}
	return remote.Write(ref, image)
}

func layerOf(files []string, dir string) ([]byte, error) {
	var stream bytes.Buffer
	w := tar.NewWriter(&stream)
	for _, path := range files {
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		if err := w.WriteHeader(&tar.Header{Name: dir + "/" + filepath.Base(path), Mode: 0o644, Size: int64(len(data))}); err != nil {
			return nil, err
		}
		if _, err := io.Copy(w, bytes.NewReader(data)); err != nil {
			return nil, err
		}
	}
	err := w.Close()
	return stream.Bytes(), err
}
