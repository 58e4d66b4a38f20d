// SPDX-License-Identifier: Apache-2.0

// Package ovmf writes the variables of a virtual machine's UEFI firmware into a file, with no machine running: what is
// otherwise typed into its set-up, or signed by who owns the machine. It is for the lab.
package ovmf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"unicode/utf16"
)

// ErrFormat is about a file that is no store of variables.
var ErrFormat = errors.New("no store of UEFI variables")

// The layout of OVMF_VARS.fd, of edk2: a firmware volume (MdePkg/Include/Pi/PiFirmwareVolume.h) whose content is a
// store of authenticated variables (MdeModulePkg/Include/Guid/VariableFormat.h), each of them aligned to 4 bytes.
const (
	volumeMark       = "_FVH"
	volumeMarkAt     = 40
	volumeHeaderAt   = 48 // length of the volume's header
	storeHeader      = 28
	variableHeader   = 60
	variableStart    = 0x55aa
	variableAdded    = 0x3f // complete, and not deleted
	erased           = 0xff
	maxNameSize      = 1 << 10
	storeSizeAt      = 16
	attributesAt     = 4
	nameSizeAt       = 36
	dataSizeAt       = 40
	variableVendorAt = 44
)

// Attributes of variables (UEFI 2.10, 8.2.1).
const (
	NonVolatile   = 0x01
	BootService   = 0x02
	Runtime       = 0x04
	Authenticated = 0x20 // by a signature with a time
)

// GUID as UEFI stores it.
type GUID [16]byte

// The vendors of what the lab sets.
func Global() GUID { return guid("8be4df61-93ca-11d2-aa0d-00e098032b8c") }

// SecurityDatabase is the vendor of db.
func SecurityDatabase() GUID { return guid("d719b2cb-3d3a-4596-a3bc-dad00e67656f") }

// SecureBootEnable is edk2's own, of the switch in its set-up.
func SecureBootEnable() GUID { return guid("f0a30bc7-af08-4556-99c4-001009c93a44") }

// Shim is the vendor of MokList.
func Shim() GUID { return guid("605dab50-e046-4300-abb6-3dd810dd8b23") }

// guid turns "8be4df61-93ca-11d2-aa0d-00e098032b8c" into bytes: three little-endian numbers, then 8 bytes.
func guid(text string) GUID {
	var a uint32
	var b, c, d uint16
	var e uint64
	if _, err := fmt.Sscanf(text, "%08x-%04x-%04x-%04x-%012x", &a, &b, &c, &d, &e); err != nil {
		panic(err)
	}
	le, be := binary.LittleEndian, binary.BigEndian
	out := le.AppendUint16(le.AppendUint16(le.AppendUint32(nil, a), b), c)
	out = append(be.AppendUint16(out, d), be.AppendUint64(nil, e)[2:]...)
	return GUID(out)
}

// Variable is one variable.
type Variable struct {
	Name       string
	Vendor     GUID
	Attributes uint32
	Data       []byte
}

// Store is the content of a file with variables.
type Store struct {
	image      []byte
	begin, end int // of the variables in it
	Variables  []Variable
}

// Parse reads a file like OVMF_VARS_4M.fd. Deleted variables are left out. ErrFormat when it is no such file.
func Parse(image []byte) (*Store, error) {
	le := binary.LittleEndian
	if len(image) < volumeHeaderAt+2 || string(image[volumeMarkAt:volumeMarkAt+4]) != volumeMark {
		return nil, fmt.Errorf("%w: it does not begin with a firmware volume", ErrFormat)
	}
	at := int(le.Uint16(image[volumeHeaderAt:]))
	authenticated := guid("aaf32c78-947b-439a-a180-2e144ec37792")
	if len(image) < at+storeHeader || !bytes.Equal(image[at:at+16], authenticated[:]) {
		return nil, fmt.Errorf("%w: no authenticated variables in its firmware volume", ErrFormat)
	}
	size := le.Uint32(image[at+storeSizeAt:])
	if uint64(at)+uint64(size) > uint64(len(image)) || size < storeHeader {
		return nil, fmt.Errorf("%w: it says to be %d bytes long", ErrFormat, size)
	}
	s := &Store{image: bytes.Clone(image), begin: at + storeHeader, end: at + int(size)}
	return s, s.parse()
}

func (s *Store) parse() error {
	le := binary.LittleEndian
	for at := s.begin; at+variableHeader <= s.end && le.Uint16(s.image[at:]) == variableStart; {
		h := s.image[at : at+variableHeader]
		name, data := le.Uint32(h[nameSizeAt:]), le.Uint32(h[dataSizeAt:])
		next := uint64(at) + variableHeader + uint64(name) + uint64(data)
		if name > maxNameSize || name%2 != 0 || next > uint64(s.end) {
			return fmt.Errorf("%w: the variable at %d is longer than the store", ErrFormat, at)
		}
		nameAt := at + variableHeader
		dataAt := nameAt + int(name)
		if h[2] == variableAdded {
			s.Variables = append(s.Variables, Variable{
				Name: decodeName(s.image[nameAt:dataAt]), Vendor: GUID(h[variableVendorAt:]),
				Attributes: le.Uint32(h[attributesAt:]), Data: bytes.Clone(s.image[dataAt:int(next)]),
			})
		}
		at = align(int(next))
	}
	return nil
}

// Set puts a variable in, in the place of one of that name.
func (s *Store) Set(v Variable) {
	for i := range s.Variables {
		if s.Variables[i].Name == v.Name && s.Variables[i].Vendor == v.Vendor {
			s.Variables[i] = v
			return
		}
	}
	s.Variables = append(s.Variables, v)
}

// Bytes is the file with the variables as they are now. An error when they do not fit.
func (s *Store) Bytes() ([]byte, error) {
	le := binary.LittleEndian
	out := bytes.Clone(s.image[:s.begin])
	for _, v := range s.Variables {
		name := encodeName(v.Name)
		h := make([]byte, variableHeader)
		le.PutUint16(h, variableStart)
		h[2] = variableAdded
		le.PutUint32(h[attributesAt:], v.Attributes)
		le.PutUint32(h[nameSizeAt:], uint32(len(name)))
		le.PutUint32(h[dataSizeAt:], uint32(len(v.Data)))
		copy(h[variableVendorAt:], v.Vendor[:])
		out = append(append(append(out, h...), name...), v.Data...)
		out = append(out, bytes.Repeat([]byte{erased}, align(len(out))-len(out))...)
	}
	if len(out) > s.end {
		return nil, fmt.Errorf("write UEFI variables: %d bytes, there is room for %d", len(out)-s.begin, s.end-s.begin)
	}
	out = append(out, bytes.Repeat([]byte{erased}, s.end-len(out))...)
	return append(out, s.image[s.end:]...), nil
}

func align(n int) int { return (n + 3) &^ 3 }

// decodeName reads UTF-16 that ends with a zero.
func decodeName(b []byte) string {
	units := make([]uint16, 0, len(b)/2)
	for i := 0; i+1 < len(b); i += 2 {
		if u := binary.LittleEndian.Uint16(b[i:]); u != 0 {
			units = append(units, u)
		}
	}
	return string(utf16.Decode(units))
}

func encodeName(name string) []byte {
	var b []byte
	for _, u := range append(utf16.Encode([]rune(name)), 0) {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	return b
}
