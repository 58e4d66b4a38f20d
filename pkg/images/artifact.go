// SPDX-License-Identifier: Apache-2.0

package images

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"slices"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// An artifact is a manifest that is no container image (image-spec 1.1,
// manifest.md, "Guidelines for Artifact Usage"). One layer of it can be read: a
// tar, which is then as good as an image's layer, or a module file, which has no
// directory and gets one:
//
//	a layer titled nic.ko.xz is <dirName>/lib/modules/<first release>/extra/nic.ko.xz

// bareModule is our own name for the type of a layer that is a module file; no
// manifest can say it.
const bareModule types.MediaType = "kmmd/module"

const annotationTitle = "org.opencontainers.image.title" // image-spec, annotations.md

var (
	tarType = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`[/.+-]tar([.+](gzip|gz|zstd))?$`)
	})
	moduleTitle = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.+-]*\.ko(\.gz|\.xz|\.zst)?$`)
	})
)

// moduleMagic is what a module file begins with, by its last suffix.
var moduleMagic = map[string]string{
	".ko": "\x7fELF", ".gz": "\x1f\x8b", ".xz": "\xfd7zXZ\x00", ".zst": "\x28\xb5\x2f\xfd",
}

// moduleFile is the name of the module file that a layer is, or "". oras gives
// the path as it was on its command line, and calls any file a tar; so the name
// counts and not the type.
func moduleFile(desc v1.Descriptor) string {
	title := path.Base(desc.Annotations[annotationTitle])
	if len(title) > maxNameLength || !moduleTitle().MatchString(title) {
		return ""
	}
	return title
}

// layerOf checks that a layer can be read; only says that it is the only one.
func layerOf(desc v1.Descriptor, only bool) (v1.Descriptor, error) {
	switch {
	case only && moduleFile(desc) != "":
		desc.MediaType = bareModule
	case slices.Contains(layerTypes(), desc.MediaType):
	case only && tarType().MatchString(string(desc.MediaType)):
	default:
		return desc, fmt.Errorf("%w: layer %s is of type %q, which is no readable layer: "+
			"an artifact has to have one layer, a tar or a file titled NAME.ko", ErrUnsafe, desc.Digest, desc.MediaType)
	}
	return desc, nil
}

// readLayer shows the entries of layer i to visit.
func (j *job) readLayer(ctx context.Context, i int, r io.Reader, visit visitor) error {
	desc := j.layers[i]
	if desc.MediaType != bareModule {
		return readLayer(ctx, r, j.budget, visit)
	}
	title := moduleFile(desc)
	magic := moduleMagic[path.Ext(title)]
	file := bufio.NewReaderSize(r, readChunk)
	head, err := file.Peek(len(magic))
	if (err == nil || errors.Is(err, io.EOF)) && string(head) != magic {
		err = fmt.Errorf("%w: it is titled %s, and is no such file", ErrUnsafe, title)
	}
	if err == nil {
		at := path.Join(j.q.dirName, modulesPart, j.q.Releases[0], "extra", title)
		err = visit(entry{name: at, kind: kindFile, size: desc.Size}, nil, file)
	}
	if err != nil {
		return layerError(err)
	}
	return nil
}

// listable says whether what is in layer i is the same for every request.
func (j *job) listable(i int) bool { return j.layers[i].MediaType != bareModule }
