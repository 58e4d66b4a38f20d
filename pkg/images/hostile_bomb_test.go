// SPDX-License-Identifier: Apache-2.0

package images

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/images/imagestest"
)

// What little bytes become when they are read. The limits that ship are what
// counts here; the memory it takes to get there too.

// cheaply fails the test when f allocates more than so many bytes altogether.
func cheaply(t *testing.T, limit uint64, f func()) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	assert.LessOrEqual(t, after.TotalAlloc-before.TotalAlloc, limit, "bytes allocated")
}

// members is a gzip layer of the stream once, and then again so many times: a
// reader sees n*len(again) more bytes, in a blob of a thousandth of that.
func members(t *testing.T, once, again []byte, n int) *imagestest.Blob {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	write := func(p []byte) []byte {
		b.Reset()
		z.Reset(&b)
		_, err := z.Write(p)
		require.NoError(t, err)
		require.NoError(t, z.Close())
		return bytes.Clone(b.Bytes())
	}
	return imagestest.Raw(append(write(once), bytes.Repeat(write(again), n)...), types.OCILayer)
}

// unfinished is the stream of entries without the end of an archive.
func unfinished(t *testing.T, entries ...imagestest.Entry) []byte {
	t.Helper()
	b := imagestest.Tar(t, entries...)
	return b[:len(b)-1024]
}

func TestBombOfGzip(t *testing.T) {
	// 64 MB of file in 64 KB.
	head := imagestest.Header{Name: "big", Type: tar.TypeReg, Size: imagestest.Octal(64 << 20)}
	blob := members(t, append(unfinished(t, good()), head.Block()...), make([]byte, 1<<20), 64)
	require.Less(t, len(blob.Data), 128<<10)
	cheaply(t, 16<<20, func() { attack{blobs: []*imagestest.Blob{blob}, err: ErrLimit}.run(t) })
}

func TestBombOfZstd(t *testing.T) {
	plain := imagestest.Tar(t, good(), imagestest.Entry{Name: "big", Body: strings.Repeat("\x00", 64<<20)})
	blob := imagestest.Compress(t, plain, imagestest.Zstd)
	require.Less(t, len(blob.Data), 128<<10)
	cheaply(t, 32<<20, func() { attack{blobs: []*imagestest.Blob{blob}, err: ErrLimit}.run(t) })
}

// zstdFrame is a frame (RFC 8878, 3.1.1) of one raw block, its header as given.
func zstdFrame(header []byte, block string) []byte {
	b := append([]byte{0x28, 0xb5, 0x2f, 0xfd}, header...)
	size := uint32(len(block))<<3 | 1 // the last one
	b = append(b, byte(size), byte(size>>8), byte(size>>16))
	return append(b, block...)
}

func TestZstdWindow(t *testing.T) {
	// The decoder would have to keep 2 GB, 3.75 TB, what the frame says its size is.
	for name, header := range map[string][]byte{
		"2 GB":              {0x00, 21 << 3},
		"largest":           {0x00, 31<<3 | 7},
		"all in one, 8 GB":  {0xe0, 0, 0, 0, 0, 2, 0, 0, 0},
		"all in one, 16 EB": {0xe0, 255, 255, 255, 255, 255, 255, 255, 255},
	} {
		t.Run(name, func(t *testing.T) {
			blob := imagestest.Raw(zstdFrame(header, string(imagestest.Tar(t, good()))), types.OCILayerZStd)
			cheaply(t, 16<<20, func() { attack{blobs: []*imagestest.Blob{blob}, shipped: true, err: ErrLimit}.run(t) })
		})
	}
}

// TestZstdWindowThatIsAllowed: the largest window of `zstd --ultra -22` is fine.
func TestZstdWindowThatIsAllowed(t *testing.T) {
	blob := imagestest.Raw(zstdFrame([]byte{0x00, 17 << 3}, string(imagestest.Tar(t, good()))), types.OCILayerZStd)
	attack{blobs: []*imagestest.Blob{blob}, shipped: true, want: onlyGood()}.run(t)
}

func TestMillionsOfEntries(t *testing.T) {
	var some []byte
	for i := range 4096 {
		some = append(some, imagestest.Header{Name: fmt.Sprintf("etc/%d", i), Type: tar.TypeReg, Size: imagestest.Octal(0)}.Block()...)
	}
	blob := members(t, unfinished(t, good()), some, 500)
	attack{blobs: []*imagestest.Blob{blob}, shipped: true, err: ErrLimit}.run(t)
}

func TestMillionsOfEntriesInTheSelection(t *testing.T) {
	var some []byte
	for i := range maxFiles + 1 {
		some = append(some, imagestest.Header{Name: fmt.Sprintf(mods+"%d.ko", i), Type: tar.TypeReg, Size: imagestest.Octal(0)}.Block()...)
	}
	attack{blobs: []*imagestest.Blob{members(t, unfinished(t, good()), some, 1)}, shipped: true, err: ErrLimit}.run(t)
}

func TestMillionsOfWhiteouts(t *testing.T) {
	some := bytes.Repeat(imagestest.Header{Name: mods + ".wh.x", Type: tar.TypeReg, Size: imagestest.Octal(0)}.Block(), 4096)
	attack{layers: []layer{{good()}}, blobs: []*imagestest.Blob{members(t, nil, some, 500)}, shipped: true, err: ErrLimit}.run(t)
}

// TestEntriesThatAreNoFiles: headers for all that follows count too.
func TestEntriesThatAreNoFiles(t *testing.T) {
	some := bytes.Repeat(imagestest.PAX(tar.TypeXGlobalHeader, "comment=x"), 2001)
	attack{blobs: []*imagestest.Blob{members(t, unfinished(t, good()), some, 1)}, err: ErrLimit}.run(t)
}

func TestHugePAXHeader(t *testing.T) {
	for name, size := range map[string]int64{"8 MB": 8 << 20, "8 GB": 8<<30 - 1} {
		t.Run(name, func(t *testing.T) {
			head := imagestest.Header{Name: "pax", Type: tar.TypeXHeader, Size: imagestest.Octal(size)}
			blob := members(t, append(unfinished(t, good()), head.Block()...), make([]byte, 1<<20), 8)
			cheaply(t, 16<<20, func() { attack{blobs: []*imagestest.Blob{blob}, shipped: true, err: ErrUnsafe}.run(t) })
		})
	}
}

func TestHugePAXName(t *testing.T) {
	pax := imagestest.PAX(tar.TypeXHeader, "path="+mods+strings.Repeat("x/", 500_000))
	file := imagestest.Header{Name: "x", Type: tar.TypeReg, Size: imagestest.Octal(0)}.Block()
	attack{layers: []layer{{good(), {Raw: append(pax, file...)}}}, err: ErrLimit}.run(t)
}

func TestManyPAXRecords(t *testing.T) {
	var records []string
	for i := range 50_000 {
		records = append(records, fmt.Sprintf("SCHILY.xattr.user.%d=x", i))
	}
	file := imagestest.Header{Name: mods + "b.ko", Type: tar.TypeReg, Size: imagestest.Octal(4)}.Member([]byte("more"))
	attack{layers: []layer{{good(), {Raw: imagestest.PAX(tar.TypeXHeader, records[:10_000]...)}, {Raw: file}}},
		want: map[string]string{"a.ko": "good", "b.ko": "more"}}.run(t)
	attack{layers: []layer{{good(), {Raw: imagestest.PAX(tar.TypeXHeader, records...)}, {Raw: file}}}, err: ErrUnsafe}.run(t)
}

// TestPAXHeadersWithoutEnd: no entry ever comes.
func TestPAXHeadersWithoutEnd(t *testing.T) {
	some := bytes.Repeat(imagestest.PAX(tar.TypeXHeader, "comment=x"), 1024)
	attack{blobs: []*imagestest.Blob{members(t, unfinished(t, good()), some, 10)}, err: ErrLimit}.run(t)
}

func TestSizeInPAX(t *testing.T) {
	for _, size := range []string{"-1", "x", "9223372036854775807", "9223372036854775808"} {
		t.Run(size, func(t *testing.T) {
			file := imagestest.Header{Name: "etc/b", Type: tar.TypeReg, Size: imagestest.Octal(4)}.Member([]byte("evil"))
			attack{layers: []layer{{good(), {Raw: append(imagestest.PAX(tar.TypeXHeader, "size="+size), file...)}}},
				shipped: true, err: ErrUnsafe}.run(t)
		})
	}
}

// sparseOldGNU is a file of the old GNU format with one piece of data at its
// end, and a hole of the given size before.
func sparseOldGNU(name string, hole int64, data string) imagestest.Entry {
	tail := make([]byte, 167)
	copy(tail[386-345:], imagestest.Octal(hole))
	copy(tail[398-345:], imagestest.Octal(int64(len(data))))
	copy(tail[483-345:], imagestest.Octal(hole+int64(len(data))))
	h := imagestest.Header{Name: name, Type: tar.TypeGNUSparse, Size: imagestest.Octal(int64(len(data))), GNU: true, Tail: tail}
	return imagestest.Entry{Raw: h.Member([]byte(data))}
}

// sparsePAX is the same in the format 1.0 of GNU tar, its map before its data.
func sparsePAX(name string, size int64, sparseMap, data string) imagestest.Entry {
	pax := imagestest.PAX(tar.TypeXHeader, "GNU.sparse.major=1", "GNU.sparse.minor=0", "GNU.sparse.name="+name,
		fmt.Sprintf("GNU.sparse.realsize=%d", size))
	body := append(imagestest.Pad([]byte(sparseMap)), data...)
	h := imagestest.Header{Name: "GNUSparseFile.0/x", Type: tar.TypeReg, Size: imagestest.Octal(int64(len(body)))}
	return imagestest.Entry{Raw: append(pax, h.Member(body)...)}
}

// TestSparse: a hole is zeros, and counts like zeros.
func TestSparse(t *testing.T) {
	want := map[string]string{"a.ko": "good", "b.ko": strings.Repeat("\x00", 1000) + "end"}
	attack{layers: []layer{{good(), sparseOldGNU(mods+"b.ko", 1000, "end")}}, want: want}.run(t)
	attack{layers: []layer{{good(), sparsePAX(mods+"b.ko", 1003, "1\n1000\n3\n", "end")}}, want: want}.run(t)
}

func TestSparseBomb(t *testing.T) {
	for name, e := range map[string]imagestest.Entry{
		"old GNU": sparseOldGNU(mods+"b.ko", 8<<30-64, "end"),
		"PAX":     sparsePAX(mods+"b.ko", 1<<62, fmt.Sprintf("1\n%d\n3\n", int64(1<<62-3)), "end"),
	} {
		t.Run(name, func(t *testing.T) {
			attack{layers: []layer{{good(), e}}, shipped: true, err: ErrLimit}.run(t)
		})
	}
}

// TestSparseBombs: many that are allowed each.
func TestSparseBombs(t *testing.T) {
	l := layer{good()}
	for i := range 5 {
		l = append(l, sparseOldGNU(fmt.Sprintf(mods+"%d.ko", i), 1<<20-512, "end"))
	}
	attack{layers: []layer{l}, err: ErrLimit}.run(t)
}

func TestSparseBombBesideTheSelection(t *testing.T) {
	attack{layers: []layer{{good(), sparseOldGNU("big", 8<<30-64, "end")}}, want: onlyGood()}.run(t)
}

func TestSparseMapThatLies(t *testing.T) {
	for name, e := range map[string]imagestest.Entry{
		"beyond the end": sparsePAX(mods+"b.ko", 10, "1\n1000\n3\n", "end"),
		"overlapping":    sparsePAX(mods+"b.ko", 10, "2\n0\n3\n1\n3\n", "endend"),
		"negative":       sparsePAX(mods+"b.ko", 10, "1\n-5\n3\n", "end"),
		"more than data": sparsePAX(mods+"b.ko", 5000, "1\n0\n5000\n", "end"),
		"without end":    sparsePAX(mods+"b.ko", 10, "99999999\n"+strings.Repeat("0\n0\n", 1000), ""),
		"traversal":      sparsePAX("UP../../../../etc/x", 3, "1\n0\n3\n", "end"),
	} {
		t.Run(name, func(t *testing.T) { attack{layers: []layer{{good(), e}}, err: ErrUnsafe}.run(t) })
	}
}
