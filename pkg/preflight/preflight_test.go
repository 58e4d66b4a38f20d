// SPDX-License-Identifier: Apache-2.0

package preflight_test

import (
	"bytes"
	"hash/crc32"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/kernel"
	"github.com/kmm-node/kmmd/pkg/kmod"
	"github.com/kmm-node/kmmd/pkg/kmod/kmodtest"
	"github.com/kmm-node/kmmd/pkg/preflight"
	"github.com/kmm-node/kmmd/pkg/sign"
)

const (
	vermagic = "6.1.0 SMP mod_unload modversions "
	other    = "6.1.9 SMP mod_unload modversions "
)

func module(t *testing.T, s kmodtest.Spec) preflight.Module {
	t.Helper()
	if s.Name == "" {
		s.Name = "mod"
	}
	if s.Vermagic == "" {
		s.Vermagic = vermagic
	}
	f, err := kmod.ParseFile(s.Name+".ko", bytes.NewReader(kmodtest.Build(s)))
	require.NoError(t, err)
	return preflight.Module{File: f}
}

// export is one of the kernel with the CRC that kmodtest gives it.
func export(name string) preflight.Export {
	return preflight.Export{GPL: kernel.No, NamespaceKnown: true, Versioned: kernel.Yes, CRC: crc32.ChecksumIEEE([]byte(name)), Sure: true}
}

// aKernel knows all of itself: open, gpl, in a namespace, for one module, without a CRC.
func aKernel() *preflight.Kernel {
	k := &preflight.Kernel{
		Arch: "amd64", Vermagic: vermagic, Modversions: kernel.Yes, Complete: true, ForceLoad: kernel.Yes, MissingNamespaces: kernel.No,
		Exports: map[string]preflight.Export{}, Loadable: map[string]string{"elsewhere": "other"},
		Security: kernel.Security{SigEnforce: kernel.No, Lockdown: "none", ModulesDisabled: kernel.No, SecureBoot: kernel.No},
	}
	for _, name := range []string{"module_layout", "printk", "gpl", "spaced", "kvm_only", "bare", "of_vendor", "vague", "unsure"} {
		k.Exports[name] = export(name)
	}
	change := func(name string, edit func(*preflight.Export)) {
		e := k.Exports[name]
		edit(&e)
		k.Exports[name] = e
	}
	change("gpl", func(e *preflight.Export) { e.GPL = kernel.Yes })
	change("spaced", func(e *preflight.Export) { e.Namespace = "NS" })
	change("kvm_only", func(e *preflight.Export) { e.Namespace = "module:kvm,kvm-amd,snd_*" })
	change("bare", func(e *preflight.Export) { e.Versioned = kernel.No })
	change("of_vendor", func(e *preflight.Export) { e.Owner, e.OwnerProprietary = "vendor", true })
	change("vague", func(e *preflight.Export) {
		*e = preflight.Export{}
	})
	change("unsure", func(e *preflight.Export) { e.Sure = false })
	return k
}

func lines(findings []preflight.Finding) string {
	var list []string
	for _, f := range findings {
		list = append(list, f.String())
	}
	return strings.Join(list, "\n")
}

func TestSymbols(t *testing.T) {
	wrong := map[string]uint32{"printk": 1, "unsure": 1, "bare": 1, "module_layout": 1}
	tests := []struct {
		name string
		spec kmodtest.Spec
		want string
	}{
		{"good", kmodtest.Spec{Imports: []string{"module_layout", "printk", "gpl", "bare"}, CRCs: map[string]uint32{"bare": 1}}, ""},
		{"weak", kmodtest.Spec{Imports: []string{"nowhere", "gpl"}, Weak: []string{"nowhere", "gpl"}, License: "MIT"}, ""},
		{"unknown", kmodtest.Spec{Imports: []string{"nowhere", "printk", "elsewhere"}},
			"error: mod: nobody exports: nowhere, elsewhere (of other, which does not run and is not named as a dependency) (UnknownSymbol)"},
		{"crc", kmodtest.Spec{Imports: []string{"module_layout", "printk", "unsure", "bare"}, CRCs: wrong, Versions: "both"},
			"error: mod: built against another kernel, CRCs differ: module_layout (0x00000001, the kernel has 0x90392bcd), printk (0x00000001, the kernel has 0xaca6454c) (SymbolVersion)\n" +
				"unknown: mod: CRCs differ from those the host's files have, which may be of another kernel than the one that runs: unsure (0x00000001, the kernel has 0xc74edf97) (SymbolVersion)"},
		{"crc of weak", kmodtest.Spec{Imports: []string{"printk"}, Weak: []string{"printk"}, CRCs: wrong},
			"error: mod: built against another kernel, CRCs differ: printk (0x00000001, the kernel has 0xaca6454c) (SymbolVersion)"},
		{"gpl", kmodtest.Spec{Imports: []string{"gpl", "printk"}, License: "Proprietary"},
			"error: mod: for GPL modules only, and its license is Proprietary: gpl (UnknownSymbol)"},
		{"namespace", kmodtest.Spec{Imports: []string{"spaced", "kvm_only"}, ImportNS: []string{"OTHER"}},
			"error: mod: in a namespace that it does not import: spaced (of NS), kvm_only (of module:kvm,kvm-amd,snd_*) (UnknownSymbol)"},
		{"namespace imported", kmodtest.Spec{Imports: []string{"spaced"}, ImportNS: []string{"NS"}}, ""},
		{"for this module", kmodtest.Spec{Name: "kvm_amd", Imports: []string{"kvm_only"}}, ""},
		{"for modules like this", kmodtest.Spec{Name: "snd_soc", Imports: []string{"kvm_only"}}, ""},
		{"for another module", kmodtest.Spec{Name: "kvm_intel", Imports: []string{"kvm_only"}},
			"error: kvm_intel: in a namespace that it does not import: kvm_only (of module:kvm,kvm-amd,snd_*) (UnknownSymbol)"},
		{"inherits", kmodtest.Spec{Imports: []string{"of_vendor", "printk"}}, ""},
		{"inherits, then GPL", kmodtest.Spec{Imports: []string{"of_vendor", "gpl"}},
			"error: mod: for GPL modules only, and its license is GPL: gpl (UnknownSymbol)"},
		{"GPL, then proprietary", kmodtest.Spec{Imports: []string{"gpl", "of_vendor"}},
			"error: mod: uses symbols for GPL modules only, and also those of a proprietary module: of_vendor of vendor (UnknownSymbol)"},
		{"not known", kmodtest.Spec{Imports: []string{"vague"}, License: "MIT"},
			"unknown: mod: the kernel's CRC is not known of: vague (SymbolVersion)\n" +
				"unknown: mod: may be for GPL modules only, and its license is MIT: vague (UnknownSymbol)\n" +
				"unknown: mod: may be in a namespace that it does not import: vague (UnknownSymbol)"},
		{"no CRCs", kmodtest.Spec{Imports: []string{"printk"}, Versions: "none"},
			"warning: mod: it has no CRCs of symbols: the kernel is tainted by loading it by force (WrongKernel)"},
		{"no CRCs, other release", kmodtest.Spec{Versions: "none", Vermagic: other},
			`error: mod: version magic "6.1.9 SMP mod_unload modversions " should be "6.1.0 SMP mod_unload modversions " (WrongKernel)` + "\n" +
				"warning: mod: it has no CRCs of symbols: the kernel is tainted by loading it by force (WrongKernel)"},
		{"other release", kmodtest.Spec{Vermagic: other, Imports: []string{"printk"}}, ""},
		{"other release, newer CRCs too", kmodtest.Spec{Vermagic: other, Imports: []string{"printk"}, Versions: "both"}, ""},
		{"other release, newer CRCs only", kmodtest.Spec{Vermagic: other, Imports: []string{"printk"}, Versions: "ext"},
			`error: mod: version magic "6.1.9 SMP mod_unload modversions " should be "6.1.0 SMP mod_unload modversions " (WrongKernel)`},
		{"exports of others", kmodtest.Spec{Exports: []string{"printk", "mine", "of_vendor"}},
			"error: mod: exports what is there already: printk (of the kernel), of_vendor (of vendor) (LoadFailed)"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			assert.Equal(t, tt.want, lines(preflight.Check([]preflight.Module{module(t, tt.spec)}, aKernel())))
		})
	}
}

func TestSameMagic(t *testing.T) {
	const without = "6.1.0 SMP mod_unload "
	for _, tt := range []struct {
		name   string
		kernel string
		spec   kmodtest.Spec
		ignore bool // of CRCs
		want   bool
	}{
		{"the same", vermagic, kmodtest.Spec{Versions: "none"}, true, true},
		{"other release", vermagic, kmodtest.Spec{Vermagic: other}, false, true},
		{"other release, no CRCs", vermagic, kmodtest.Spec{Vermagic: other, Versions: "none"}, false, false},
		{"other release, CRCs ignored", vermagic, kmodtest.Spec{Vermagic: other}, true, false},
		{"other options", vermagic, kmodtest.Spec{Vermagic: "6.1.0 SMP preempt mod_unload modversions "}, false, false},
		{"the kernel has no CRCs", without, kmodtest.Spec{Vermagic: "6.1.9 SMP mod_unload "}, false, false},
		{"not known", "", kmodtest.Spec{}, false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := module(t, tt.spec)
			m.IgnoreModversions = tt.ignore
			assert.Equal(t, tt.want, preflight.SameMagic(&m, tt.kernel))
		})
	}
}

// TestOrder: what is loaded before counts as exported, also what runs already.
func TestOrder(t *testing.T) {
	base := module(t, kmodtest.Spec{Name: "base", Exports: []string{"hello"}, GPL: []string{"hello"}, Namespaces: map[string]string{"hello": "BASE"}})
	user := module(t, kmodtest.Spec{Name: "user", Imports: []string{"hello"}, ImportNS: []string{"BASE"}})
	assert.Empty(t, preflight.Check([]preflight.Module{base, user}, aKernel()))
	assert.Equal(t, "error: user: nobody exports: hello (UnknownSymbol)", lines(preflight.Check([]preflight.Module{user, base}, aKernel())))
	base.Loaded = true
	assert.Empty(t, preflight.Check([]preflight.Module{base, user}, aKernel()))

	vendor := module(t, kmodtest.Spec{Name: "vendor", License: "Proprietary", Exports: []string{"hello"}})
	glue := module(t, kmodtest.Spec{Name: "glue", Imports: []string{"hello"}, Exports: []string{"glued"}})
	last := module(t, kmodtest.Spec{Name: "last", Imports: []string{"gpl", "glued"}})
	assert.Equal(t, "error: last: uses symbols for GPL modules only, and also those of a proprietary module: glued of glue (UnknownSymbol)",
		lines(preflight.Check([]preflight.Module{vendor, glue, last}, aKernel())), "the taint is inherited")
	twin := module(t, kmodtest.Spec{Name: "twin", Exports: []string{"hello"}})
	assert.Equal(t, "error: twin: exports what is there already: hello (of vendor) (LoadFailed)", lines(preflight.Check([]preflight.Module{vendor, twin}, aKernel())))
}

// TestAllAtOnce has one report of all that is wrong.
func TestAllAtOnce(t *testing.T) {
	k := aKernel()
	k.Arch = "arm64"
	k.Security.Blacklist = []string{"mod"}
	k.Security.ModulesDisabled = kernel.Yes
	k.Security.SigEnforce = kernel.Yes
	m := module(t, kmodtest.Spec{Vermagic: "6.1.0 preempt ", Imports: []string{"nowhere", "printk"}, CRCs: map[string]uint32{"printk": 2},
		Params: []kmodtest.Param{{Name: "level", Type: "int"}}})
	m.Parameters = []string{"level=x", "leve=1"}
	m.MissingFirmware = []string{"acme/fw.bin"}
	assert.Equal(t, strings.TrimSpace(`
error: mod: kernel.modules_disabled is set: until the next boot no module can be loaded or unloaded (LoadFailed)
error: mod: built for amd64, this machine is arm64 (WrongKernel)
error: mod: module_blacklist= of the kernel command line names it: no module of that name is loaded until the next boot (Blacklisted)
error: mod: version magic "6.1.0 preempt " should be "6.1.0 SMP mod_unload modversions " (WrongKernel)
error: mod: nobody exports: nowhere (UnknownSymbol)
error: mod: built against another kernel, CRCs differ: printk (0x00000002, the kernel has 0xaca6454c) (SymbolVersion)
error: mod: unsigned, and module.sig_enforce is on: the kernel refuses it (Signature)
`), strings.Join(strings.Split(lines(preflight.Check([]preflight.Module{m}, k)), "\n")[:7], "\n"))
	rest := lines(preflight.Check([]preflight.Module{m}, k)[7:])
	assert.Contains(t, rest, "(InvalidParameter)")
	assert.Contains(t, rest, "leve")
	assert.Contains(t, rest, "warning: mod: may ask for the firmware acme/fw.bin, which neither the image nor the host has (FirmwareMissing)")
}

// TestUnknownKernel blocks nothing when nothing is known.
func TestUnknownKernel(t *testing.T) {
	m := module(t, kmodtest.Spec{Imports: []string{"printk", "module_layout"}, License: "MIT"})
	findings := preflight.Check([]preflight.Module{m}, &preflight.Kernel{})
	assert.False(t, preflight.Blocks(findings))
	assert.Contains(t, lines(findings), "unknown: mod: may not be exported, the kernel does not tell: printk")

	k := aKernel()
	k.MissingNamespaces, k.ForceLoad = kernel.Unknown, kernel.Unknown
	assert.False(t, preflight.Blocks(preflight.Check([]preflight.Module{module(t, kmodtest.Spec{Imports: []string{"spaced"}, Versions: "none"})}, k)))
	k.MissingNamespaces, k.ForceLoad = kernel.Yes, kernel.No
	findings = preflight.Check([]preflight.Module{module(t, kmodtest.Spec{Imports: []string{"spaced"}})}, k)
	assert.Equal(t, "warning: mod: in a namespace that it does not import, which this kernel allows: spaced (of NS) (UnknownSymbol)", lines(findings))
	forced := module(t, kmodtest.Spec{Imports: []string{"printk"}, CRCs: map[string]uint32{"printk": 3}})
	forced.IgnoreModversions = true
	assert.Equal(t, "error: mod: it is to be loaded by force, and this kernel can not load modules by force (WrongKernel)", lines(preflight.Check([]preflight.Module{forced}, k)))
	k.ForceLoad = kernel.Yes
	assert.Empty(t, preflight.Check([]preflight.Module{forced}, k))
}

// TestSignature: what is certain blocks. The rules themselves are pkg/sign's.
func TestSignature(t *testing.T) {
	rings := func(keys ...kernel.Key) []kernel.Keyring {
		return []kernel.Keyring{{Name: ".builtin_trusted_keys", Known: true, Keys: keys}, {Name: ".machine", Known: true}}
	}
	enforced := func(rings []kernel.Keyring) kernel.Security {
		return kernel.Security{SigEnforce: kernel.Yes, Lockdown: "none", Keyrings: rings}
	}
	byName := &sign.Signature{Hash: "sha256", Algorithm: "rsaEncryption", Issuer: "Acme: key", RawIssuer: []byte("acme"), Serial: "a1"}
	tests := []struct {
		name     string
		sig      *sign.Signature
		security kernel.Security
		want     string
	}{
		{"nobody asks", nil, kernel.Security{SigEnforce: kernel.No, Lockdown: "none", SecureBoot: kernel.Yes}, ""},
		{"not readable", &sign.Signature{Problem: "not PKCS#7"}, kernel.Security{}, "error: mod: its signature can not be read (not PKCS#7): the kernel refuses it"},
		{"unsigned", nil, enforced(nil), "error: mod: unsigned, and module.sig_enforce is on: the kernel refuses it"},
		{"unsigned, locked down", nil, kernel.Security{Lockdown: "integrity"}, "error: mod: unsigned, and lockdown=integrity is on: the kernel refuses it"},
		{"unsigned, perhaps locked down", nil, kernel.Security{SecureBoot: kernel.Yes}, "warning: mod: unsigned, and Secure Boot is on (whether the kernel is locked down is not known): the kernel will refuse it"},
		{"nobody has the key", byName, enforced(rings()), `error: mod: signed by "Acme: key" (serial a1), which is in none of the kernel's keyrings, and module.sig_enforce is on: the kernel refuses it`},
		{"a key that is not shown", byName, enforced(rings(kernel.Key{Subject: "x", ID: "ab"})), `warning: mod: signed by "Acme: key" (serial a1), which is in none of the kernel's keyrings, and module.sig_enforce is on: the kernel will refuse it`},
		{"keyrings hidden", byName, enforced(nil), `unknown: mod: signed by "Acme: key" (serial a1); the kernel's keyrings can not be read; module.sig_enforce is on`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			k := aKernel()
			k.Security = tt.security
			m := module(t, kmodtest.Spec{})
			m.File.Signature = tt.sig
			want := tt.want
			if want != "" {
				want += " (Signature)"
			}
			assert.Equal(t, want, lines(preflight.Check([]preflight.Module{m}, k)))
			k.Trusted = []sign.Signature{*byName}
			if tt.sig != nil && tt.sig.Problem == "" {
				assert.Empty(t, preflight.Check([]preflight.Module{m}, k), "the kernel took one of that key")
			}
		})
	}
}
