// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// image is one that is pulled: layers from the lowest up. The upper two hold
// the files that are wanted.
type image struct {
	name   string // of the repository
	layers []*layer
}

func (i *image) modules() *layer  { return i.layers[len(i.layers)-2] }
func (i *image) firmware() *layer { return i.layers[len(i.layers)-1] }

// holding are the bytes of the layers with what the tool is asked for.
func (i *image) holding(t tool) int64 {
	if t.modulesOnly {
		return i.modules().meta.Size
	}
	return i.modules().meta.Size + i.firmware().meta.Size
}

func (i *image) size() (packed, unpacked int64) {
	for _, l := range i.layers {
		packed, unpacked = packed+l.meta.Size, unpacked+l.meta.Unpacked
	}
	return packed, unpacked
}

// push uploads what the registry has not got yet.
func (i *image) push(host string) error {
	config, err := empty.Image.ConfigFile()
	if err != nil {
		return err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", runtime.GOARCH
	img, err := mutate.ConfigFile(mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON), config)
	if err != nil {
		return err
	}
	for _, l := range i.layers {
		img, err = mutate.Append(img, mutate.Addendum{Layer: l, MediaType: l.meta.Type, History: v1.History{CreatedBy: filepath.Base(l.file)}})
		if err != nil {
			return err
		}
	}
	ref, err := name.ParseReference(host+"/"+i.name+":v1", name.Insecure)
	if err != nil {
		return err
	}
	return remote.Write(ref, img)
}

// recipe is an image to be: trees from the lowest up, by their name.
type recipe struct {
	name      string
	trees     []string
	mediaType types.MediaType
}

func recipes() []recipe {
	large := []string{"base", "toolkit", "modules", "firmware"}
	return []recipe{
		{"large", large, types.OCILayer},
		{"large-zstd", large, types.OCILayerZStd},
		{"small", []string{"small-base", "small-modules", "small-firmware"}, types.OCILayer},
	}
}

// builder makes layers once and keeps them in dir.
type builder struct {
	dir string
	content
}

func (b *builder) images() ([]*image, error) {
	var out []*image
	for _, r := range recipes() {
		i := &image{name: r.name}
		for _, tree := range r.trees {
			l, err := b.layer(tree, r.mediaType)
			if err != nil {
				return nil, fmt.Errorf("image %s: %w", r.name, err)
			}
			i.layers = append(i.layers, l)
		}
		out = append(out, i)
	}
	return out, nil
}

func (b *builder) layer(name string, mediaType types.MediaType) (*layer, error) {
	file := filepath.Join(b.dir, name+".tar.gz")
	if mediaType == types.OCILayerZStd {
		file = filepath.Join(b.dir, name+".tar.zst")
	}
	t, ok := trees()[name]
	if !ok {
		return nil, fmt.Errorf("no such tree: %s", name)
	}
	of := fmt.Sprint(b.release, t)
	l, err := loadLayer(file)
	if err == nil && l.meta.Of == of {
		return l, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	fmt.Fprintln(os.Stderr, "bench-images: making", filepath.Base(file))
	if err := os.MkdirAll(b.dir, 0o755); err != nil {
		return nil, err
	}
	dir, err := b.make(name, t)
	if err != nil {
		return nil, err
	}
	if l, err = makeLayer(file, dir, of, mediaType); err != nil {
		return nil, err
	}
	return l, os.RemoveAll(dir)
}

// tree is what a layer is made of.
type tree struct {
	packages []string
	headers  bool     // the kernel's too
	modules  []string // directories of the kernel's modules
	firmware []string // those that have to find all the firmware they ask for
}

func trees() map[string]tree {
	return map[string]tree{
		"base":           {packages: slices.Concat(basePackages, systemPackages)},
		"toolkit":        {packages: toolPackages, headers: true},
		"modules":        {modules: manyModules},
		"firmware":       {firmware: manyModules},
		"small-base":     {packages: basePackages},
		"small-modules":  {modules: fewModules},
		"small-firmware": {firmware: fewModules},
	}
}

func (b *builder) make(name string, t tree) (dir string, err error) {
	switch {
	case t.modules != nil:
		return b.modules(name, t.modules)
	case t.firmware != nil:
		modules, err := b.modules(name+"-modules", t.firmware)
		if err != nil {
			return "", err
		}
		dir, err = b.firmware(name, modules)
		return dir, errors.Join(err, os.RemoveAll(modules))
	}
	if dir, err = b.unpack(name, t.packages); err == nil && t.headers {
		err = b.addHeaders(dir)
	}
	return dir, err
}
