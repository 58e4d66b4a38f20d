// SPDX-License-Identifier: Apache-2.0

package images

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// File is one file of an image that a Glob stands for.
type File struct {
	// Path is where the file really is, absolute and without symlinks.
	Path string
	// Size of its content.
	Size int64

	content content
}

// SameContent says whether the two are names of one file: hard links.
func (f File) SameContent(o File) bool { return f.content == o.content }

// Found is what Find found for one Glob, sorted by path.
type Found struct {
	Glob  Glob
	Files []File
	// Near are modules of the image whose names are close to the pattern, a few;
	// only when there are no Files.
	Near []string
}

// maxNear is how many names Found.Near has.
const maxNear = 5

// Find looks for the files of one image, raw being its manifest, that each of the
// globs stands for, as a container would see them: whiteouts, opaque directories,
// hard links and symlinks are honoured. Layers are read newest first, and no further
// than an older one could add to the answer: to the lowest where a glob has a
// wildcard, because any layer may have a file for that. ErrNotFile when a glob stands
// for something else, too.
func (i *Image) Find(ctx context.Context, raw []byte, globs []Glob) ([]Found, error) {
	layers, err := checkLayers(raw, i.l)
	if err != nil {
		return nil, i.q.explain(ctx, err)
	}
	f := &finder{i: i, layers: layers, globs: globs, budget: newBudget(i.l), entries: make([][]entry, len(layers))}
	found, err := f.run(ctx)
	if err != nil {
		return nil, i.q.explain(ctx, err)
	}
	return found, nil
}

// Visit shows the content of files that Find found in the same image, each once
// whatever its names, in an order that depends on nothing else: by layer, newest
// first, and by place in the layer. content is good until visit returns. When Visit
// returns nil, all that was shown was verified.
func (i *Image) Visit(ctx context.Context, raw []byte, files []File, visit func(f File, h *tar.Header, content io.Reader) error) error {
	layers, err := checkLayers(raw, i.l)
	if err != nil {
		return i.q.explain(ctx, err)
	}
	wanted := map[int]map[int]File{}
	for _, f := range files {
		of := wanted[f.content.layer]
		if of == nil {
			of = map[int]File{}
			wanted[f.content.layer] = of
		}
		if have, ok := of[f.content.ordinal]; !ok || f.Path < have.Path {
			of[f.content.ordinal] = f
		}
	}
	budget := newBudget(i.l)
	for _, n := range slices.Backward(slices.Sorted(maps.Keys(wanted))) {
		var own error // of visit, and not of what it read
		err := i.layer(ctx, layers[n], budget, func(e entry, h *tar.Header, content io.Reader) error {
			f, ok := wanted[n][e.ordinal]
			if !ok {
				return nil
			}
			c := &contentReader{r: content}
			err := visit(f, h, c)
			if c.err != nil {
				return c.err
			}
			own = err
			return err
		})
		switch {
		case own != nil && errors.Is(err, own): // and the layer's digest was right
			return own
		case err != nil:
			return i.q.explain(ctx, err)
		}
	}
	return nil
}

// contentReader notes what went wrong with what it reads.
type contentReader struct {
	r   io.Reader
	err error
}

func (c *contentReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		c.err = err
	}
	return n, err
}

// layer reads a layer to its end; nil means that its digest was right.
func (i *Image) layer(ctx context.Context, desc v1.Descriptor, budget *budget, visit visitor) error {
	if desc.MediaType == bareModule {
		return fmt.Errorf("%w: this is an artifact with the file %s and no image with directories", ErrUnsafe, moduleFile(desc))
	}
	b := i.f.open(ctx, desc)
	defer b.Close()
	b.hurry()
	err := readLayer(ctx, b, budget, visit)
	if err != nil && errors.Is(err, ErrLimit) {
		return fmt.Errorf("layer %s: %w", desc.Digest, err)
	}
	// What a broken transfer looked like on the way says nothing.
	if whole := b.verify(); whole != nil {
		return whole
	}
	if err != nil {
		return fmt.Errorf("layer %s: %w", desc.Digest, err)
	}
	return nil
}

// finder is one Find.
type finder struct {
	i       *Image
	layers  []v1.Descriptor
	globs   []Glob
	budget  *budget
	entries [][]entry // of the layers read so far
	merged  int       // entries, to find out whether older layers are needed
}

func (f *finder) run(ctx context.Context) ([]Found, error) {
	for n := len(f.layers) - 1; n >= 0; n-- {
		err := f.i.layer(ctx, f.layers[n], f.budget, func(e entry, _ *tar.Header, _ io.Reader) error {
			f.entries[n] = append(f.entries[n], e)
			return nil
		})
		if err != nil {
			return nil, err
		}
		bottom := n == 0
		if !bottom && !f.affordable(n) {
			continue
		}
		found, loose, err := f.look(n)
		if bottom {
			return found, err
		}
		if err == nil && !loose {
			return found, nil
		}
	}
	return nil, fmt.Errorf("%w: an image without layers", ErrUnsafe)
}

// affordable says whether layers n and above may be merged before the others are
// there; an image of many large layers must not cost their square. With a wildcard
// there is next to no hope.
func (f *finder) affordable(n int) bool {
	for _, entries := range f.entries[n:] {
		f.merged += len(entries)
	}
	return f.merged <= maxEarlyMerges
}

// look finds the files in layers n and above; loose says that older layers could
// change that.
func (f *finder) look(n int) (found []Found, loose bool, err error) {
	m := newMerge(f.i.l.entries)
	for k, entries := range f.entries[n:] {
		if err := m.apply(n+k, entries); err != nil {
			return nil, false, err
		}
	}
	m.loose = false
	loose = m.uncertain()
	total := 0
	for _, g := range f.globs {
		x := &expansion{m: m, l: f.i.l, glob: g, files: map[string]File{}}
		if err := x.expand([]*node{m.root}, nil, g.parts); err != nil {
			return nil, false, err
		}
		one := Found{Glob: g}
		for _, at := range slices.Sorted(maps.Keys(x.files)) {
			one.Files = append(one.Files, x.files[at])
		}
		if total += len(one.Files); total > f.i.l.files {
			return nil, false, fmt.Errorf("%w: more than %d files for the patterns", ErrLimit, f.i.l.files)
		}
		if len(one.Files) == 0 && n == 0 {
			one.Near = m.near(g)
		}
		loose = loose || len(one.Files) == 0
		found = append(found, one)
	}
	return found, loose || m.loose, nil
}
