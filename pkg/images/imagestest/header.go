// SPDX-License-Identifier: Apache-2.0

package imagestest

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
)

// blockSize is the unit of a tar stream.
const blockSize = 512

// Header is one header block as no careful writer makes it, with the right
// checksum: the fields are taken as they are. It is for Entry.Raw.
type Header struct {
	Name string // the first 100 bytes count
	Type byte
	Size string // 12 bytes, octal
	Link string // the first 100 bytes count
	// GNU asks for the format of old GNU tar, in which the bytes from 345 on are
	// Tail: times, then from 386 on the map of a sparse file.
	GNU  bool
	Tail []byte
}

// Block is the header's 512 bytes.
func (h Header) Block() []byte {
	b := make([]byte, blockSize)
	put := func(at, size int, s string) { copy(b[at:at+size], s) }
	put(0, 100, h.Name)
	put(100, 8, "0000644\x00")
	put(108, 8, "0000000\x00")
	put(116, 8, "0000000\x00")
	put(124, 12, h.Size)
	put(136, 12, "00000000000\x00")
	b[156] = h.Type
	put(157, 100, h.Link)
	put(257, 8, "ustar\x0000")
	if h.GNU {
		put(257, 8, "ustar  \x00")
	}
	copy(b[345:], h.Tail)
	put(148, 8, "        ")
	sum := 0
	for _, c := range b {
		sum += int(c)
	}
	put(148, 8, fmt.Sprintf("%06o\x00 ", sum))
	return b
}

// Octal is a number as a header has it.
func Octal(n int64) string { return fmt.Sprintf("%011o\x00", n) }

// Pad fills the last block of data.
func Pad(data []byte) []byte {
	if over := len(data) % blockSize; over != 0 {
		return append(slices.Clip(data), make([]byte, blockSize-over)...)
	}
	return data
}

// PAX is an extended header with these "key=value" records: for the next entry,
// type tar.TypeXHeader, or for all, tar.TypeXGlobalHeader.
func PAX(typ byte, records ...string) []byte {
	var body bytes.Buffer
	for _, r := range records {
		// The length at the start counts itself.
		n := len(r) + len(" \n") + 1
		for n != len(strconv.Itoa(n))+len(r)+len(" \n") {
			n++
		}
		fmt.Fprintf(&body, "%d %s\n", n, r)
	}
	h := Header{Name: "pax", Type: typ, Size: Octal(int64(body.Len()))}
	return append(h.Block(), Pad(body.Bytes())...)
}

// Member is a header and its data.
func (h Header) Member(data []byte) []byte { return append(h.Block(), Pad(data)...) }
