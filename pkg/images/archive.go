// SPDX-License-Identifier: Apache-2.0

package images

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"

	"golang.org/x/sys/unix"
)

// maxArchiveEntries is far above what an image has: three entries of the
// layout and one per blob.
const maxArchiveEntries = 16_384

// archive is a layout in an uncompressed tar. It is read in place.
type archive struct {
	f     *os.File
	files map[string]span
}

// span is where the bytes of a file are in the archive.
type span struct{ offset, size int64 }

// openArchive notes where everything is in the archive at path.
func openArchive(ctx context.Context, path string) (*archive, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, onDisk(err)
	}
	a := &archive{f: f, files: map[string]span{}}
	if err := a.list(ctx); err != nil {
		_ = f.Close()
		return nil, err
	}
	return a, nil
}

// Close implements layoutFiles.
func (a *archive) Close() error { return a.f.Close() }

// open implements layoutFiles.
func (a *archive) open(name string) (*layoutFile, error) {
	s, ok := a.files[name]
	if !ok {
		return nil, fmt.Errorf("open %s in the archive: %w", name, fs.ErrNotExist)
	}
	return &layoutFile{SectionReader: io.NewSectionReader(a.f, s.offset, s.size)}, nil
}

func (a *archive) list(ctx context.Context) error {
	if err := a.checkPlain(); err != nil {
		return err
	}
	info, err := a.f.Stat()
	if err != nil {
		return onDisk(err)
	}
	t := tar.NewReader(a.f)
	for entries := 0; ; entries++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return archiveError(err)
		}
		if entries == maxArchiveEntries {
			return fmt.Errorf("%w: the archive has more than %d entries", ErrLimit, maxArchiveEntries)
		}
		if len(h.Name) > maxPathLength {
			return fmt.Errorf("%w: entry %.80q… has a name longer than %d bytes", ErrLimit, h.Name, maxPathLength)
		}
		if h.Typeflag != tar.TypeReg {
			continue // directories; a link is never followed
		}
		// archive/tar reads a seekable file block by block: here the content begins.
		offset, err := a.f.Seek(0, io.SeekCurrent)
		if err != nil {
			return onDisk(err)
		}
		if h.Size > info.Size()-offset {
			return fmt.Errorf("%w: the archive ends in the middle of %q", ErrUnsafe, h.Name)
		}
		name := path.Clean("/" + h.Name)[1:]
		if _, ok := a.files[name]; ok {
			return fmt.Errorf("%w: the archive has %q twice", ErrUnsafe, name)
		}
		a.files[name] = span{offset, h.Size}
	}
}

// checkPlain refuses what would have to be unpacked whole to find anything.
func (a *archive) checkPlain() error {
	head := make([]byte, 4)
	if _, err := a.f.ReadAt(head, 0); err != nil && !errors.Is(err, io.EOF) {
		return onDisk(err)
	}
	for _, c := range []struct{ magic, how string }{
		{"\x1f\x8b", "gunzip"}, {"\x28\xb5\x2f\xfd", "unzstd"}, {"\xfd7zX", "unxz"}, {"BZh", "bunzip2"},
	} {
		if string(head[:len(c.magic)]) == c.magic {
			return fmt.Errorf("%w: the archive is compressed: unpack it once with %s; its layers are compressed anyway",
				ErrUnsafe, c.how)
		}
	}
	return nil
}

func archiveError(err error) error {
	var errno unix.Errno
	if errors.As(err, &errno) {
		return onDisk(err)
	}
	return fmt.Errorf("%w: read archive: %w", ErrUnsafe, err)
}
