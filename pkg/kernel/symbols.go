// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
)

// Export is a symbol of the running kernel that modules may use, and what is known of it.
type Export struct {
	// Namespace and CRC are those in the kernel's memory, if Read.
	Namespace string
	CRC       uint32
	Read      bool
	GPL       bool // for GPL modules only
	GPLKnown  bool
}

// Symbols are the exported symbols of the running kernel.
type Symbols struct {
	// Kernel has what the kernel image exports, by name. Nil when the kernel does not tell: it lists them in
	// /proc/kallsyms only with CONFIG_KALLSYMS_ALL, as Debian, Ubuntu, Fedora and RHEL build it.
	Kernel map[string]Export
	// Modules has which module, running now, exports a symbol. Their CRCs are in their files.
	Modules map[string]string
	// Modversions says whether the kernel has CRCs at all; nothing can be said unless Known.
	Modversions, Known bool
	// Tables are where Kernel was read from memory; of no use when it was not.
	Tables Tables
	// Unread says why CRCs and namespaces could not be read from memory, nil when they were.
	Unread error
}

// Tables are the addresses of the two tables of symbols that the kernel image exports, those for all modules and those
// for GPL modules only. They are the same until the next boot, and nobody but root may learn them: they tell where the
// kernel lies in memory (CONFIG_RANDOMIZE_BASE).
type Tables struct {
	All Table `json:"all"`
	GPL Table `json:"gpl"`
}

// Table is an array of struct kernel_symbol, and one of CRCs in the same order when there are any.
type Table struct {
	Start    uint64 `json:"start"`
	Stop     uint64 `json:"stop"`
	CRCStart uint64 `json:"crcStart"`
	CRCStop  uint64 `json:"crcStop"`
}

// exportTables are the addresses of the tables of exported symbols (include/asm-generic/vmlinux.lds.h).
type exportTables struct {
	entries map[uint64]string // address of a struct kernel_symbol to the name in __ksymtab_NAME
	bounds  map[string]uint64 // __start___ksymtab and the like
	shown   bool              // addresses are real
}

// Symbols reads which symbols the kernel and its modules export: the names from /proc/kallsyms; which are for GPL modules
// only, from the addresses there; CRCs and namespaces from the kernel's memory through /proc/kcore. The last two need
// CAP_SYSLOG and CAP_SYS_RAWIO; lockdown=confidentiality forbids the last, and a container's /proc may hide it. Takes
// some ten milliseconds.
func (h *Host) Symbols() (*Symbols, error) {
	f, err := os.Open(h.path("proc/kallsyms"))
	if errors.Is(err, fs.ErrNotExist) {
		return &Symbols{Unread: errors.New("the kernel has no /proc/kallsyms")}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read kernel symbols: %w", err)
	}
	defer f.Close()
	s := &Symbols{Modules: make(map[string]string)}
	t := exportTables{entries: make(map[uint64]string), bounds: make(map[string]uint64)}
	if err := parseKallsyms(f, s, &t); err != nil {
		return nil, fmt.Errorf("read kernel symbols: %w", err)
	}
	switch {
	case s.Kernel == nil:
		s.Unread = errors.New("/proc/kallsyms does not list the exported symbols (CONFIG_KALLSYMS_ALL)")
	case !t.shown:
		s.Unread = errors.New("/proc/kallsyms hides the addresses (kptr_restrict, CAP_SYSLOG)")
	default:
		s.Tables = t.tables()
		s.Modversions, s.Known = s.Tables.modversions(), true
		s.Unread = h.readExports(s, &t)
	}
	return s, nil
}

func (t *exportTables) tables() Tables {
	of := func(suffix string) Table {
		return Table{
			Start: t.bounds["__start___ksymtab"+suffix], Stop: t.bounds["__stop___ksymtab"+suffix],
			CRCStart: t.bounds["__start___kcrctab"+suffix], CRCStop: t.bounds["__stop___kcrctab"+suffix],
		}
	}
	return Tables{All: of(""), GPL: of("_gpl")}
}

// parseKallsyms takes the exported symbols out of lines as s_show of kernel/kallsyms.c writes them. There is one
// __ksymtab_NAME for each in the kernel; of a module's symbol table some hold __crc_NAME or __kstrtab_NAME instead.
//
//	ffffffffb6dedee4 r __ksymtab_register_netdev
//	ffffffffb6df1c1c R __start___ksymtab_gpl
//	ffffffffc05a60f4 r __crc_register_virtio_driver	[virtio]
func parseKallsyms(r io.Reader, s *Symbols, t *exportTables) error {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		line := lines.Bytes()
		i := bytes.IndexByte(line, ' ')
		if i < 0 || i+3 >= len(line) || line[i+3] != '_' {
			continue // the most: no name of a table
		}
		rest := line[i+3:]
		if bytes.IndexByte(rest, '\t') >= 0 {
			s.addModuleSymbol(string(rest))
			continue
		}
		name, isEntry := bytes.CutPrefix(rest, []byte("__ksymtab_"))
		isBound := bytes.HasPrefix(rest, []byte("__start___k")) || bytes.HasPrefix(rest, []byte("__stop___k"))
		if !isEntry && !isBound {
			continue
		}
		address, err := strconv.ParseUint(string(line[:i]), 16, 64)
		if err != nil {
			return fmt.Errorf("parse line %q", line)
		}
		if isBound {
			t.bounds[string(rest)] = address
			t.shown = t.shown || address != 0
			continue
		}
		if s.Kernel == nil {
			s.Kernel = make(map[string]Export, 16<<10)
		}
		symbol := string(name)
		s.Kernel[symbol] = Export{}
		t.entries[address] = symbol
	}
	return lines.Err()
}

func (s *Symbols) addModuleSymbol(text string) {
	symbol, module, _ := strings.Cut(text, "\t")
	for _, prefix := range [...]string{"__ksymtab_", "__crc_", "__kstrtab_"} {
		if name, ok := strings.CutPrefix(symbol, prefix); ok {
			s.Modules[name] = strings.Trim(module, "[]")
		}
	}
}
