// SPDX-License-Identifier: Apache-2.0

package kerneltest

import (
	"bytes"
	"debug/elf"
	"fmt"
	"os"
	"strings"
	"syscall"

	"github.com/kmm-node/kmmd/pkg/kmod"
)

// moduleFile is what the kernel takes from the file.
type moduleFile struct {
	*kmod.Info
	size    int64
	imports []string
	exports []string
	crcs    bool // the section __versions is there
}

// read gets the file as kernel_read_file and elf_validity_check do.
func (l *loading) read() syscall.Errno {
	// Another descriptor of the same file, wherever its name is now.
	path := fmt.Sprintf("/proc/self/fd/%d", l.r.File.Fd())
	fi, err := l.r.File.Stat()
	if err != nil {
		return syscall.EBADF
	}
	if !fi.Mode().IsRegular() || fi.Size() == 0 {
		return syscall.EINVAL
	}
	content, errno := l.content(path)
	if errno != 0 {
		return errno
	}
	info, err := kmod.ParseInfo(l.r.File.Name(), bytes.NewReader(content))
	if err != nil {
		if !bytes.HasPrefix(content, []byte(elf.ELFMAG)) {
			l.print("Invalid ELF header magic: != \\x7fELF")
		} else {
			l.print("Invalid ELF section header overflow")
		}
		return syscall.ENOEXEC
	}
	l.file = &moduleFile{Info: info, size: fi.Size()}
	if err := l.file.readSymbols(content); err != nil {
		l.print("Invalid ELF section header overflow")
		return syscall.ENOEXEC
	}
	return 0
}

// content undoes the compression if the kernel is asked to and can (kernel/module/decompress.c).
func (l *loading) content(path string) ([]byte, syscall.Errno) {
	if !l.r.Compressed {
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, syscall.EIO
		}
		return b, 0
	}
	if l.k.compression == "" {
		return nil, syscall.EOPNOTSUPP
	}
	if kmod.Compression(path) != l.k.compression {
		l.print("not %s compressed module", withArticle(l.k.compression))
		return nil, syscall.EINVAL
	}
	var b bytes.Buffer
	status := l.knows()
	if status == 0 && kmod.Decompress(path, &b) != nil {
		status = 7 // XZ_DATA_ERROR
	}
	if status != 0 {
		l.print("decompression failed with status %d", status)
		return nil, syscall.EINVAL
	}
	return b.Bytes(), 0
}

// knows is 0 when the kernel's decoder has all that the file makes use of, else what it says: XZ_OPTIONS_ERROR for a check
// other than none and CRC32 (lib/xz/xz_dec_stream.c, dec_stream_header), Z_DATA_ERROR for optional parts of a gzip header
// other than the name, which are taken for data (kernel/module/decompress.c, module_gzip_header_len).
func (l *loading) knows() int {
	var head [8]byte
	if _, err := l.r.File.ReadAt(head[:], 0); err != nil {
		return 0
	}
	switch {
	case l.k.compression == "xz" && head[7] > 1:
		return 6
	case l.k.compression == "gzip" && head[3]&^0x08 != 0:
		return -3
	}
	return 0
}

func withArticle(compression string) string {
	if compression == "xz" {
		return "an xz"
	}
	return "a " + compression
}

// readSymbols reads the undefined symbols, and what is exported: symbol S has a symbol __ksymtab_S.
func (m *moduleFile) readSymbols(content []byte) error {
	f, err := elf.NewFile(bytes.NewReader(content))
	if err != nil {
		return err
	}
	m.crcs = f.Section("__versions") != nil
	syms, err := f.Symbols()
	if err != nil {
		return err
	}
	for _, s := range syms {
		exported, ok := strings.CutPrefix(s.Name, "__ksymtab_")
		switch {
		case ok:
			m.exports = append(m.exports, exported)
		case s.Section == elf.SHN_UNDEF && s.Name != "":
			m.imports = append(m.imports, s.Name)
		}
	}
	return nil
}
