// SPDX-License-Identifier: Apache-2.0

package gather_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/kernel"
	"github.com/kmm-node/kmmd/pkg/kernel/kcoretest"
	"github.com/kmm-node/kmmd/pkg/kmod"
	"github.com/kmm-node/kmmd/pkg/kmod/kmodtest"
	"github.com/kmm-node/kmmd/pkg/preflight"
	"github.com/kmm-node/kmmd/pkg/preflight/gather"
	"github.com/kmm-node/kmmd/pkg/record"
)

const vermagic = "6.1.0 SMP mod_unload modversions "

// kallsyms is of a kernel that exports a, b and, for GPL modules only, c; of its module "runs" with r; and that tells
// its memory to nobody.
const kallsyms = `ffffffff81000000 R __start___ksymtab
ffffffff81000000 r __ksymtab_a
ffffffff8100000c r __ksymtab_b
ffffffff81000018 r __ksymtab_module_layout
ffffffff81000024 R __stop___ksymtab
ffffffff81000024 R __start___ksymtab_gpl
ffffffff81000024 r __ksymtab_c
ffffffff81000030 R __stop___ksymtab_gpl
ffffffff81000030 R __start___kcrctab
ffffffff8100003c R __stop___kcrctab
ffffffffc0000000 r __ksymtab_r	[runs]
`

// a running in-tree module, and one that could run.
func inTree() map[string]kmodtest.Spec {
	return map[string]kmodtest.Spec{
		"kernel/runs.ko": {InTree: true, Vermagic: vermagic, BuildID: []byte{1, 2}, Imports: []string{"module_layout", "a"}, Exports: []string{"r"}, GPL: []string{"r"}},
		"kernel/idle.ko": {InTree: true, Vermagic: vermagic, Imports: []string{"b", "c", "r"}, Exports: []string{"i"}},
	}
}

// host is a root with files; nil removes what would be there.
func host(t *testing.T, change map[string]string) (*kernel.Host, *kmod.Tree, string) {
	t.Helper()
	root := t.TempDir()
	note := binary.LittleEndian.AppendUint32(nil, 4)
	note = append(binary.LittleEndian.AppendUint32(note, 2), 3, 0, 0, 0, 'G', 'N', 'U', 0, 1, 2, 0, 0)
	files := map[string]string{
		"proc/sys/kernel/osrelease": "6.1.0\n", "proc/sys/kernel/random/boot_id": "x\n", "proc/kallsyms": kallsyms,
		"proc/modules": "runs 16384 0 - Live 0xffffffffc0000000\n", "sys/module/runs/notes/.note.gnu.build-id": string(note),
		"boot/config-6.1.0":                 "CONFIG_MODULE_FORCE_LOAD=y\n",
		"lib/modules/6.1.0/modules.symbols": "alias symbol:r runs\nalias symbol:i idle\n",
	}
	for name, text := range change {
		files[name] = text
	}
	for name, text := range files {
		path := filepath.Join(root, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
	}
	h, err := kernel.Open(root)
	require.NoError(t, err)
	dir := filepath.Join(root, "lib/modules/6.1.0")
	kmodtest.WriteTree(t, dir, inTree())
	tree, err := kmod.OpenTree(dir)
	require.NoError(t, err)
	return h, tree, root
}

func module(t *testing.T, s kmodtest.Spec) preflight.Module {
	t.Helper()
	if s.Name == "" {
		s.Name = "mod"
	}
	s.Vermagic = vermagic
	f, err := kmod.ParseFile(s.Name, bytes.NewReader(kmodtest.Build(s)))
	require.NoError(t, err)
	return preflight.Module{File: f}
}

func check(t *testing.T, c *gather.Collector, tree *kmod.Tree, leaving []string, modules ...preflight.Module) string {
	t.Helper()
	k, err := c.Kernel(tree, modules, leaving)
	require.NoError(t, err)
	var lines []string
	for _, f := range preflight.Check(modules, k) {
		lines = append(lines, f.String())
	}
	return strings.Join(lines, "\n")
}

const noNamespaces = "unknown: mod: may be in a namespace that it does not import: "

func TestFromFiles(t *testing.T) {
	wrong := map[string]uint32{"a": 1, "r": 2}
	tests := []struct {
		name    string
		spec    kmodtest.Spec
		leaving []string
		want    []string // beginnings of lines
	}{
		{"good", kmodtest.Spec{Imports: []string{"a", "b", "c", "r"}}, nil, []string{noNamespaces + "a, b, c (UnknownSymbol)"}},
		{"wrong CRC", kmodtest.Spec{Imports: []string{"a"}, CRCs: wrong}, nil, []string{"error: mod: built against another kernel, CRCs differ: a (0x00000001", noNamespaces}},
		{"wrong CRC of a module", kmodtest.Spec{Imports: []string{"r"}, CRCs: wrong}, nil, []string{"error: mod: built against another kernel, CRCs differ: r (0x00000002, runs has"}},
		{"GPL", kmodtest.Spec{Imports: []string{"c", "r"}, License: "MIT"}, nil, []string{"error: mod: for GPL modules only, and its license is MIT: c, r"}},
		{"leaves", kmodtest.Spec{Imports: []string{"r"}}, []string{"runs"}, []string{"error: mod: nobody exports: r (of runs, which does not run and is not named as a dependency)"}},
		{"does not run", kmodtest.Spec{Imports: []string{"i"}}, nil, []string{"error: mod: nobody exports: i (of idle, which does not run"}},
		{"nowhere", kmodtest.Spec{Imports: []string{"x"}}, nil, []string{"error: mod: nobody exports: x (UnknownSymbol)"}},
		{"takes the place", kmodtest.Spec{Name: "runs", Exports: []string{"r"}}, nil, nil},
		{"export is there", kmodtest.Spec{Exports: []string{"r"}}, nil, []string{"error: mod: exports what is there already: r (of runs)"}},
	}
	h, tree, _ := host(t, nil)
	c := gather.New(h, "amd64", "")
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := check(t, c, tree, tt.leaving, module(t, tt.spec))
			if tt.want == nil {
				assert.Empty(t, got)
				return
			}
			lines := strings.Split(got, "\n")
			require.Len(t, lines, len(tt.want), got)
			for i := range lines {
				assert.True(t, strings.HasPrefix(lines[i], tt.want[i]), got)
			}
		})
	}
}

// TestSymvers: the headers of the very build tell all; those of another build are not sure.
func TestSymvers(t *testing.T) {
	symvers := ""
	for _, name := range []string{"module_layout", "a", "b", "c"} {
		kind := "EXPORT_SYMBOL"
		if name == "c" {
			kind = "EXPORT_SYMBOL_GPL"
		}
		symvers += "0x" + crc(name) + "\t" + name + "\tvmlinux\t" + kind + "\t\n"
	}
	file := "usr/src/linux-headers-6.1.0/Module.symvers"
	spec := kmodtest.Spec{Imports: []string{"a", "b", "c"}}
	bad := kmodtest.Spec{Imports: []string{"b"}, CRCs: map[string]uint32{"b": 1}}

	h, tree, _ := host(t, map[string]string{file: symvers})
	assert.Empty(t, check(t, gather.New(h, "amd64", ""), tree, nil, module(t, spec)))
	assert.Contains(t, check(t, gather.New(h, "amd64", ""), tree, nil, module(t, bad)), "error: mod: built against another kernel")

	h, tree, _ = host(t, map[string]string{file: strings.Replace(symvers, crc("module_layout"), "12345678", 1)})
	assert.Contains(t, check(t, gather.New(h, "amd64", ""), tree, nil, module(t, bad)), "unknown: mod: CRCs differ from those the host's files have")

	// A kernel that does not even tell names.
	h, tree, _ = host(t, map[string]string{file: symvers, "proc/kallsyms": "ffffffff81000000 T a\n"})
	assert.Empty(t, check(t, gather.New(h, "amd64", ""), tree, nil, module(t, spec)))
	assert.Contains(t, check(t, gather.New(h, "amd64", ""), tree, nil, module(t, kmodtest.Spec{Imports: []string{"x"}})), "error: mod: nobody exports: x")
}

// TestSymversOfModules: of a kernel that tells no names, a symbol of a module that runs is there, also when nobody lists it.
func TestSymversOfModules(t *testing.T) {
	symvers := "0x" + crc("module_layout") + "\tmodule_layout\tvmlinux\tEXPORT_SYMBOL\t\n" +
		"0x" + crc("r") + "\tr\tkernel/runs\tEXPORT_SYMBOL_GPL\t\n0x" + crc("i") + "\ti\tkernel/idle\tEXPORT_SYMBOL\t\n"
	files := map[string]string{"usr/src/linux-headers-6.1.0/Module.symvers": symvers, "proc/kallsyms": "ffffffff81000000 T a\n"}
	h, tree, _ := host(t, files)
	c := gather.New(h, "amd64", "")
	assert.Empty(t, check(t, c, tree, nil, module(t, kmodtest.Spec{Imports: []string{"r"}})))
	const missing = "error: mod: nobody exports: "
	assert.Contains(t, check(t, c, tree, []string{"runs"}, module(t, kmodtest.Spec{Imports: []string{"r"}})), missing+"r (of runs, which does not run")
	assert.Contains(t, check(t, c, tree, nil, module(t, kmodtest.Spec{Imports: []string{"i"}})), missing+"i (of idle, which does not run")

	files["proc/modules"] = "ours 16384 0 - Live 0x0 (OE)\nruns 16384 0 - Live 0x0\n"
	h, tree, _ = host(t, files)
	x := module(t, kmodtest.Spec{Imports: []string{"x"}})
	assert.Equal(t, "unknown: mod: may not be exported, the kernel does not tell: x (UnknownSymbol)", check(t, gather.New(h, "amd64", ""), tree, nil, x))
	assert.Contains(t, check(t, gather.New(h, "amd64", ""), tree, []string{"ours"}, x), missing+"x")
}

func crc(name string) string {
	const digits = "0123456789abcdef"
	out := ""
	for v, i := crc32.ChecksumIEEE([]byte(name)), 28; i >= 0; i -= 4 {
		out += string(digits[v>>i&15])
	}
	return out
}

// TestManyOutOfTree: the modules that were loaded last are not the kernel's own.
func TestManyOutOfTree(t *testing.T) {
	modules := ""
	for i := range 20 {
		modules += fmt.Sprintf("ours%d 16384 0 - Live 0x0 (OE)\n", i)
	}
	h, tree, _ := host(t, map[string]string{"proc/modules": modules + "runs 16384 0 - Live 0x0\n"})
	got := check(t, gather.New(h, "amd64", ""), tree, nil, module(t, kmodtest.Spec{Imports: []string{"a"}, CRCs: map[string]uint32{"a": 1}}))
	assert.Contains(t, got, "error: mod: built against another kernel, CRCs differ: a (")
	assert.NotContains(t, got, "version magic is not known")
}

// TestOtherBuild: files of another build of the same release prove nothing.
func TestOtherBuild(t *testing.T) {
	h, tree, root := host(t, nil)
	require.NoError(t, os.Remove(filepath.Join(root, "sys/module/runs/notes/.note.gnu.build-id")))
	m := module(t, kmodtest.Spec{Imports: []string{"a", "r"}, CRCs: map[string]uint32{"a": 1, "r": 1}})
	got := check(t, gather.New(h, "amd64", ""), tree, nil, m)
	assert.NotContains(t, got, "error")
	assert.Contains(t, got, "CRCs differ from those the host's files have, which may be of another kernel than the one that runs: a (")
	assert.Contains(t, got, "the kernel's CRC is not known of: r")
	assert.Contains(t, got, "the running kernel's version magic is not known")
}

// TestNothingKnown blocks nothing; a symbol may always be there.
func TestNothingKnown(t *testing.T) {
	h, _, root := host(t, nil)
	require.NoError(t, os.Remove(filepath.Join(root, "proc/kallsyms")))
	m := module(t, kmodtest.Spec{Imports: []string{"a", "x"}, CRCs: map[string]uint32{"a": 1}})
	got := check(t, gather.New(h, "amd64", ""), nil, nil, m)
	assert.NotContains(t, got, "error")
	assert.Contains(t, got, "may not be exported, the kernel does not tell: a, x")
}

// TestNewModule: what began to run since the last time is seen.
func TestNewModule(t *testing.T) {
	h, tree, root := host(t, nil)
	c := gather.New(h, "amd64", "")
	m := module(t, kmodtest.Spec{Imports: []string{"late"}})
	assert.Contains(t, check(t, c, tree, nil, m), "nobody exports: late")
	require.NoError(t, os.WriteFile(filepath.Join(root, "proc/kallsyms"), []byte(kallsyms+"ffffffffc0001000 r __crc_late\t[came]\n"), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(root, "proc/modules"), []byte("runs 16384 0 - Live 0x0\ncame 16384 0 - Live 0x0 (POE)\n"), 0o644))
	assert.Equal(t, "unknown: mod: the kernel's CRC is not known of: late (SymbolVersion)\n"+noNamespaces+"late (UnknownSymbol)", check(t, c, tree, nil, m))
	gpl := module(t, kmodtest.Spec{Imports: []string{"c", "late"}})
	assert.Contains(t, check(t, c, tree, nil, gpl), "also those of a proprietary module: late of came")
}

// TestNewBuildSamePlace: a newer build lies where the one before was, with as many pages, and exports another symbol.
func TestNewBuildSamePlace(t *testing.T) {
	const where = "sys/module/ours/notes/.note.gnu.build-id"
	note := func(id string) string {
		return "\x04\x00\x00\x00\x02\x00\x00\x00\x03\x00\x00\x00GNU\x00" + id + "\x00\x00"
	}
	exports := func(name string) string { return kallsyms + "ffffffffc0100000 r __ksymtab_" + name + "\t[ours]\n" }
	h, tree, root := host(t, map[string]string{
		"proc/modules":  "ours 16384 0 - Live 0xffffffffc0100000 (OE)\nruns 16384 0 - Live 0xffffffffc0000000\n",
		"proc/kallsyms": exports("old"), where: note("\x07\x07"),
	})
	c := gather.New(h, "amd64", "")
	m := module(t, kmodtest.Spec{Imports: []string{"old", "fresh"}})
	assert.Contains(t, check(t, c, tree, nil, m), "nobody exports: fresh (")

	for name, text := range map[string]string{"proc/kallsyms": exports("fresh"), where: note("\x08\x08")} {
		require.NoError(t, os.WriteFile(filepath.Join(root, name), []byte(text), 0o644))
	}
	assert.Contains(t, check(t, c, tree, nil, m), "nobody exports: old (")
}

// TestTables: a second one does not look for the kernel's tables, and finds the same in them.
func TestTables(t *testing.T) {
	h, tree, root := host(t, nil)
	var exports []kcoretest.Export
	for _, name := range []string{"a", "b", "module_layout"} {
		exports = append(exports, kcoretest.Export{Name: name, CRC: crc32.ChecksumIEEE([]byte(name))})
	}
	kcoretest.Write(t, root, append(exports, kcoretest.Export{Name: "c", CRC: crc32.ChecksumIEEE([]byte("c")), GPL: true}))
	list, file := filepath.Join(root, "proc/kallsyms"), filepath.Join(root, "symbols.json")
	symbols, err := os.ReadFile(list)
	require.NoError(t, err)
	good, bad := module(t, kmodtest.Spec{Imports: []string{"a", "c"}}), module(t, kmodtest.Spec{Imports: []string{"a"}, CRCs: map[string]uint32{"a": 7}})
	ofModule := module(t, kmodtest.Spec{Imports: []string{"register_virtio_driver"}})
	const wrong = "error: mod: built against another kernel"

	c := gather.New(h, "amd64", file)
	assert.Empty(t, check(t, c, tree, nil, good))
	assert.Contains(t, check(t, c, tree, nil, bad), wrong)
	st, err := os.Stat(file)
	require.NoError(t, err)
	assert.Equal(t, fs.FileMode(0o600), st.Mode())

	require.NoError(t, os.Remove(list))
	c = gather.New(h, "amd64", file)
	assert.Empty(t, check(t, c, tree, nil, good))
	assert.Contains(t, check(t, c, tree, nil, bad), wrong)
	require.NoError(t, os.WriteFile(list, symbols, 0o600)) // a module's symbols are only there
	assert.Contains(t, check(t, c, tree, nil, ofModule), "the kernel's CRC is not known of: register_virtio_driver")
	assert.Empty(t, check(t, c, tree, nil, good))

	// What is prepared has them too: the first change does not wait for the list.
	c = gather.New(h, "amd64", file)
	require.NoError(t, c.Prepare(tree))
	require.NoError(t, os.Remove(list))
	assert.Contains(t, check(t, c, tree, nil, ofModule), "the kernel's CRC is not known of: register_virtio_driver")
	require.NoError(t, os.WriteFile(list, symbols, 0o600))

	sealed, err := os.ReadFile(file)
	require.NoError(t, err)
	object, err := record.Open(sealed)
	require.NoError(t, err)
	// Whoever believes the short one finds nobody that exports c.
	var r struct {
		BootID string        `json:"bootID"`
		Tables kernel.Tables `json:"tables"`
	}
	require.NoError(t, json.Unmarshal(object, &r))
	r.Tables.GPL.Stop, r.Tables.GPL.CRCStop = r.Tables.GPL.Start, r.Tables.GPL.CRCStart
	short, err := json.Marshal(r)
	require.NoError(t, err)
	sum := sealed[bytes.LastIndexByte(sealed, ','):]
	for name, text := range map[string][]byte{
		"damaged":         append(bytes.TrimSuffix(short, []byte("}")), sum...),
		"moved":           record.Seal(bytes.Replace(object, []byte(`"stop":`), []byte(`"stop":1`), 1)),
		"of another boot": record.Seal(bytes.Replace(short, []byte(`"x"`), []byte(`"y"`), 1)),
		"of nobody":       []byte("hello"),
	} {
		require.NoError(t, os.WriteFile(file, text, 0o600))
		assert.Empty(t, check(t, gather.New(h, "amd64", file), tree, nil, good), name)
		again, err := os.ReadFile(file)
		require.NoError(t, err)
		assert.Equal(t, string(sealed), string(again), name)
	}
	// Where it can not be kept, that is told and all else goes on.
	c = gather.New(h, "amd64", filepath.Join(root, "none/symbols.json"))
	assert.Empty(t, check(t, c, tree, nil, good))
	require.ErrorIs(t, c.Prepare(tree), fs.ErrNotExist)

	require.NoError(t, os.Remove(filepath.Join(root, "proc/kcore")))
	assert.Contains(t, check(t, gather.New(h, "amd64", file), tree, nil, good), "unknown: mod: ")
}
