// SPDX-License-Identifier: Apache-2.0

package kmod

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"syscall"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// magics tell what a file is packed with, by its first bytes.
var magics = [...]struct{ name, magic string }{
	{"gzip", "\x1f\x8b"},
	{"xz", "\xfd7zXZ\x00"},
	{"zstd", "\x28\xb5\x2f\xfd"},
}

const (
	magicSize = 6
	// xzDictMin is the least dictionary the xz package takes. It uses the one the
	// stream asks for when that is larger, and 8 MiB when told nothing: most of
	// the time spent on a small module.
	xzDictMin = 4096
	// xzDictLimit and zstdWindowLimit bound the memory a hostile stream can
	// make a decoder take; kbuild uses 1 MiB (xz) and at most 128 MiB (zstd).
	xzDictLimit     = 128 << 20
	zstdWindowLimit = 128 << 20
	// xzDictTotal bounds the dictionaries of all blocks of a stream: each is made anew, for a block that may have 30
	// bytes in the file. xz -T makes blocks of at least three times the dictionary.
	xzDictTotal = 4 << 30
)

// Compression tells what the file is packed with, by content: "gzip", "xz",
// "zstd", the words of /sys/module/compression. It is "" for any other file and
// for one that can not be read.
func Compression(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	return CompressionOf(f)
}

func sniff(r io.ReaderAt) (string, error) {
	var b [magicSize]byte
	n, err := r.ReadAt(b[:], 0)
	if err != nil && err != io.EOF {
		return "", err
	}
	for _, m := range magics {
		if bytes.HasPrefix(b[:n], []byte(m.magic)) {
			return m.name, nil
		}
	}
	return "", nil
}

// Decompress writes the plain bytes of a module file to w, copying a file that
// is not compressed. ErrTooLarge beyond 512 MiB, ErrFormat for a damaged stream.
func Decompress(path string, w io.Writer) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("decompress %s: %w", path, err)
	}
	defer f.Close()
	return DecompressFile(f, w)
}

// DecompressFile is Decompress for a file that is open, and read from its beginning.
func DecompressFile(f *os.File, w io.Writer) error {
	kind, err := sniff(f)
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err == nil {
		err = decompress(f, kind, w)
	}
	if err != nil {
		return fmt.Errorf("decompress %s: %w", f.Name(), err)
	}
	return nil
}

// CompressionOf is Compression for a file that is open; it may be read from anywhere.
func CompressionOf(f io.ReaderAt) string {
	kind, err := sniff(f)
	if err != nil {
		return ""
	}
	return kind
}

// KernelUnpacks reports whether a kernel that undoes the compression of a file can undo it of this one: the kernel's xz
// knows no check but CRC32 (lib/xz/xz_dec_stream.c, dec_stream_header), and xz(1) has CRC64 unless told otherwise. It may
// be read from anywhere.
func KernelUnpacks(f io.ReaderAt) bool {
	const check, checkCRC32 = magicSize + 1, 1 // xz-file-format 2.1.1.2
	if CompressionOf(f) != "xz" {
		return true
	}
	var b [1]byte
	_, err := f.ReadAt(b[:], check)
	return err == nil && b[0] <= checkCRC32
}

// ReadInfo reads the module file at path, of any compression. ErrFormat when it
// is no module, ErrTooLarge when it is beyond the limits.
func ReadInfo(path string) (*Info, error) {
	var info *Info
	err := withPlain(path, func(r io.ReaderAt) (err error) {
		info, err = ParseInfo(path, r)
		return err
	})
	return info, err
}

// smallFile is up to which size a module file is read at once; most are smaller.
const smallFile = 256 << 10

// openFile is os.Open with one call in place of five to find out that a file needs no poller; nor does it wait for who
// writes into a pipe. Whoever has a lease on the file is waited for (open(2), EWOULDBLOCK).
func openFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return os.Open(path)
	}
	return f, err
}

// withPlain calls fn with the plain bytes of a module file: the file itself, or
// a buffer that has them.
func withPlain(path string, fn func(io.ReaderAt) error) error {
	_, err := withPlainOf(path, fn)
	return err
}

// withPlainOf is withPlain, and gives the state of the file that was read.
func withPlainOf(path string, fn func(io.ReaderAt) error) (stamp, error) {
	f, err := openFile(path)
	if err != nil {
		return stamp{}, fmt.Errorf("read module: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return stamp{}, fmt.Errorf("read module: %w", err)
	}
	return stamp{st.Size(), st.ModTime()}, plainly(f, st, path, fn)
}

// plainly calls fn with the plain bytes of an open module file.
func plainly(f *os.File, st fs.FileInfo, path string, fn func(io.ReaderAt) error) error {
	if !st.Mode().IsRegular() {
		return fmt.Errorf("read module %s: %w: no regular file", path, ErrFormat)
	}
	var packed interface {
		io.Reader
		io.ReaderAt
	} = f
	if st.Size() <= smallFile {
		content := make([]byte, st.Size())
		n, err := f.ReadAt(content, 0)
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("read module: %w", err)
		}
		packed = bytes.NewReader(content[:n])
	}
	kind, err := sniff(packed)
	if err != nil {
		return fmt.Errorf("read module: %w", err)
	}
	if kind == "" {
		return fn(packed)
	}
	var b bytes.Buffer
	b.Grow(int(min(st.Size()*4, 8<<20)))
	if err := decompress(packed, kind, &b); err != nil {
		return fmt.Errorf("read module %s: %w", path, err)
	}
	return fn(unpackedFile{bytes.NewReader(b.Bytes())})
}

// unpackedFile is what withPlain gives of a file that is compressed.
type unpackedFile struct{ *bytes.Reader }

func decompress(f io.Reader, kind string, w io.Writer) error {
	r, err := decoder(f, kind)
	if err != nil {
		return streamError(err)
	}
	defer r.Close()
	n, err := io.Copy(w, io.LimitReader(r, maxModuleSize+1))
	switch {
	case err != nil:
		return streamError(err)
	case n > maxModuleSize:
		return fmt.Errorf("unpack more than %d bytes: %w", maxModuleSize, ErrTooLarge)
	}
	return nil
}

func decoder(f io.Reader, kind string) (io.ReadCloser, error) {
	switch kind {
	case "gzip":
		return gzip.NewReader(bufio.NewReader(f))
	case "xz":
		r, err := xz.ReaderConfig{DictCap: xzDictMin, SingleStream: true}.NewReader(newXZGuard(f))
		if err != nil {
			return nil, err
		}
		return io.NopCloser(r), nil
	case "zstd":
		r, err := zstd.NewReader(f, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(zstdWindowLimit))
		if err != nil {
			return nil, err
		}
		return r.IOReadCloser(), nil
	}
	return io.NopCloser(f), nil
}

// xzGuard hands on an xz stream, and refuses block headers that ask for too much memory before the decoder sees them. It
// does not go from block to block: the decoder takes a chunk to be as long as what it decodes of it, not as long as it
// says, so that a header may be where none seems to be. But all headers are 4 bytes aligned and have a checksum
// (xz-file-format 3.1), and so it looks at each place that could be one.
type xzGuard struct {
	b     *bufio.Reader
	good  int    // bytes of b that were looked at
	total uint64 // of all dictionaries
}

const (
	xzAhead     = 16 << 10
	xzMaxHeader = 1024
)

func newXZGuard(r io.Reader) *xzGuard { return &xzGuard{b: bufio.NewReaderSize(r, xzAhead)} }

func (g *xzGuard) Read(p []byte) (int, error) {
	if g.good == 0 {
		if err := g.look(); err != nil {
			return 0, err
		}
	}
	n, err := g.b.Read(p[:min(len(p), g.good)])
	g.good -= n
	return n, err
}

// look looks at what comes next, io.EOF when there is no more.
func (g *xzGuard) look() error {
	ahead, err := g.b.Peek(xzAhead)
	n := len(ahead)
	switch {
	case err == nil:
		n -= xzMaxHeader // what begins later may go on behind what is here
	case !errors.Is(err, io.EOF) || n == 0:
		return err
	}
	for at := 0; at < n; at += 4 {
		size := xzDict(ahead[at:])
		if g.total += size; size > xzDictLimit || g.total > xzDictTotal {
			return fmt.Errorf("dictionary of %d bytes, of %d in all: %w", size, g.total, ErrTooLarge)
		}
	}
	g.good = n
	return nil
}

// xzDict is the size of the dictionary that a block header asks for, 0 when b does not begin with one: there are size,
// flags, two optional sizes and the only filter the xz package knows, LZMA2, being id 0x21, length 1, dictionary size;
// zeros and a checksum fill it up (xz-file-format 3.1, 5.3.1).
func xzDict(b []byte) uint64 {
	const lzma2, compressed, uncompressed = 0x21, 0x40, 0x80
	length := (int(b[0]) + 1) * 4
	if b[0] == 0 || length > len(b) || b[1]&^(compressed|uncompressed) != 0 {
		return 0
	}
	sum, rest := b[length-4:length], b[2:length-4]
	for _, bit := range []byte{compressed, uncompressed} {
		if b[1]&bit != 0 {
			_, n := binary.Uvarint(rest)
			rest = rest[max(n, 0):]
		}
	}
	id, n := binary.Uvarint(rest)
	if id != lzma2 || len(rest) < n+2 || rest[n] != 1 {
		return 0
	}
	bits, rest := rest[n+1], rest[n+2:]
	if bits > 40 || len(bytes.Trim(rest, "\x00")) > 0 || crc32.ChecksumIEEE(b[:length-4]) != binary.LittleEndian.Uint32(sum) {
		return 0 // the xz package refuses it
	}
	return uint64(2|bits&1) << (bits/2 + 11)
}

// streamError marks what a decoder says as ErrFormat. Errors of the operating
// system and of the writer stay as they are.
func streamError(err error) error {
	var pathErr *os.PathError
	if errors.As(err, &pathErr) || errors.Is(err, ErrTooLarge) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrFormat, err)
}
