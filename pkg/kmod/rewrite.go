// SPDX-License-Identifier: Apache-2.0

package kmod

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// Compress packs a module so that the kernel can unpack it itself
// (kernel/module/decompress.c, Linux 5.17): gzip without a name in its header, xz
// with a CRC32 and a dictionary of 1 MiB as kbuild has it, zstd. kind is one of
// the words of Compression; "" gives data itself. The same input gives the same
// bytes, until a library is changed.
func Compress(kind string, data []byte) ([]byte, error) {
	var b bytes.Buffer
	var w io.WriteCloser
	var err error
	switch kind {
	case "":
		return data, nil
	case "gzip":
		w, err = gzip.NewWriterLevel(&b, gzip.BestCompression)
	case "xz":
		w, err = xz.WriterConfig{CheckSum: xz.CRC32, DictCap: 1 << 20}.NewWriter(&b)
	case "zstd":
		w, err = zstd.NewWriter(&b, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(2<<20))
	default:
		return nil, fmt.Errorf("compress with %q: unknown", kind)
	}
	if err != nil {
		return nil, fmt.Errorf("compress with %s: %w", kind, err)
	}
	_, err = w.Write(data)
	if err := errors.Join(err, w.Close()); err != nil {
		return nil, fmt.Errorf("compress with %s: %w", kind, err)
	}
	return b.Bytes(), nil
}

// Rewrite gives the content of a module file after change was made to its plain
// bytes: unpacked for that, and packed again in the same way. When change gives
// back what it got, so does Rewrite, to the byte. Errors of change are returned
// as they are; ErrFormat for a damaged stream, ErrTooLarge beyond 512 MiB.
func Rewrite(data []byte, change func(plain []byte) ([]byte, error)) ([]byte, error) {
	kind, err := sniff(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	plain := data
	if kind != "" {
		var b bytes.Buffer
		if err := decompress(bytes.NewReader(data), kind, &b); err != nil {
			return nil, err
		}
		plain = b.Bytes()
	}
	changed, err := change(plain)
	switch {
	case err != nil:
		return nil, err
	case bytes.Equal(plain, changed):
		return data, nil
	}
	return Compress(kind, changed)
}
