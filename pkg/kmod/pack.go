// SPDX-License-Identifier: Apache-2.0

package kmod

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// packWindow is the dictionary or window of what Pack makes: that of kbuild for xz.
const packWindow = 1 << 20

// Unpack gives the plain bytes of a module file in memory, and what it was packed
// with: "gzip", "xz", "zstd", or "" and the file itself when it was not. The errors
// are those of Decompress.
func Unpack(file []byte) (plain []byte, kind string, err error) {
	r := bytes.NewReader(file)
	if kind, err = sniff(r); err != nil || kind == "" {
		return file, kind, err
	}
	var b bytes.Buffer
	if err := decompress(r, kind, &b); err != nil {
		return nil, kind, fmt.Errorf("unpack %s: %w", kind, err)
	}
	return b.Bytes(), kind, nil
}

// Pack packs a module the way Unpack says it was, for kernels that unpack it
// themselves (kernel/module/decompress.c, since 5.17): one stream, for xz with
// CRC-32, the only check the kernel knows. The same input gives the same bytes with
// the same version of the compressors, which go.mod fixes.
func Pack(plain []byte, kind string) ([]byte, error) {
	var b bytes.Buffer
	var w io.WriteCloser
	var err error
	switch kind {
	case "":
		return plain, nil
	case "gzip":
		w, err = gzip.NewWriterLevel(&b, gzip.BestCompression)
	case "xz":
		w, err = xz.WriterConfig{DictCap: packWindow, CheckSum: xz.CRC32}.NewWriter(&b)
	case "zstd":
		w, err = zstd.NewWriter(&b, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(packWindow))
	default:
		err = errors.New("not known here")
	}
	if err == nil {
		_, err = w.Write(plain)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("pack with %q: %w", kind, err)
	}
	return b.Bytes(), nil
}
