// SPDX-License-Identifier: Apache-2.0

package preflight

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"encoding/hex"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/sign"
)

// image is a module file that is changed in place: every change keeps its size.
type image struct {
	t   *testing.T
	raw []byte
	elf *elf.File
}

func readImage(t *testing.T, path string) *image {
	t.Helper()
	raw, err := os.ReadFile(path)
	require.NoError(t, err)
	f, err := elf.NewFile(bytes.NewReader(raw))
	require.NoError(t, err)
	return &image{t, raw, f}
}

// section is the bytes of a section in the file.
func (m *image) section(name string) []byte {
	m.t.Helper()
	s := m.elf.Section(name)
	require.NotNil(m.t, s, name)
	return m.raw[s.Offset : s.Offset+s.FileSize]
}

// replace changes old, which must be in the section once, into what is not longer.
func (m *image) replace(section, old, new string) {
	m.t.Helper()
	require.LessOrEqual(m.t, len(new), len(old))
	b := m.section(section)
	i := bytes.Index(b, []byte(old))
	require.GreaterOrEqual(m.t, i, 0, old)
	copy(b[i:i+len(old)], append([]byte(new), make([]byte, len(old)-len(new))...))
}

// version gives the entry of a symbol in __versions.
func (m *image) version(symbol string) []byte {
	m.t.Helper()
	for b := m.section("__versions"); len(b) >= 64; b = b[64:] {
		if bytes.HasPrefix(b[8:], append([]byte(symbol), 0)) {
			return b[:64]
		}
	}
	require.Fail(m.t, "no CRC of "+symbol)
	return nil
}

// crc changes what the file says the CRC of a symbol is.
func (m *image) crc(symbol string) {
	m.t.Helper()
	m.version(symbol)[0] ^= 0xff
}

// imports makes the file import another symbol in place of old.
func (m *image) imports(old, symbol string, crc uint32) {
	m.t.Helper()
	m.replace(".strtab", "\x00"+old+"\x00", "\x00"+symbol+"\x00")
	b := m.version(old)
	binary.LittleEndian.PutUint64(b, uint64(crc))
	copy(b[8:], append([]byte(symbol), make([]byte, 56-len(symbol))...))
}

// license makes the module proprietary.
func (m *image) license() {
	m.t.Helper()
	m.replace(".modinfo", "license=GPL\x00", "license=MIT\x00")
}

// rename gives the module another name of the same length.
func (m *image) rename(old, name string) {
	m.t.Helper()
	require.Len(m.t, name, len(old))
	m.replace(".modinfo", "\x00name="+old+"\x00", "\x00name="+name+"\x00")
	m.replace(".gnu.linkonce.this_module", old+"\x00", name+"\x00")
}

// write makes the file.
func (m *image) write(name string) string {
	m.t.Helper()
	path := filepath.Join(m.t.TempDir(), name+".ko")
	require.NoError(m.t, os.WriteFile(path, m.raw, 0o644))
	return path
}

// lastIndex is where b stands for the last time.
func lastIndex(t *testing.T, raw, b []byte) int {
	t.Helper()
	i := bytes.LastIndex(raw, b)
	require.GreaterOrEqual(t, i, 0)
	return i
}

// signatureEnd is how far before the end of the file the last byte of the signer's serial number is.
func signatureEnd(t *testing.T, raw []byte, s *sign.Signature) int {
	t.Helper()
	serial, err := hex.DecodeString(s.Serial)
	require.NoError(t, err)
	return len(raw) - lastIndex(t, raw, serial) - len(serial) + 1
}
