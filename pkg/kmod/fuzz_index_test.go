// SPDX-License-Identifier: Apache-2.0

package kmod_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/kmod"
)

// nameOf is the module of a path in an index file, written without the package's
// own helpers.
func nameOf(path string) string {
	path = strings.TrimRight(path, "/")
	path = path[strings.LastIndexByte(path, '/')+1:]
	if i := strings.IndexByte(path, '.'); i >= 0 {
		path = path[:i]
	}
	return strings.Map(func(r rune) rune {
		if r == '-' {
			return '_'
		}
		return r
	}, path)
}

// FuzzModulesDep compares with a reader that takes the file apart by its
// characters.
func FuzzModulesDep(f *testing.F) {
	f.Add("kernel/a.ko: kernel/b-c.ko.xz kernel/d.ko\nkernel/d.ko:\n")
	f.Add(":\n: :\n\n#x:\na:b:c\n/abs.ko: ../up.ko\n")
	f.Fuzz(func(t *testing.T, data string) {
		if strings.ToValidUTF8(data, "") != data {
			return // nameOf goes by characters
		}
		want := map[string][]string{}
		for line := range strings.SplitSeq(data, "\n") {
			line = strings.TrimRight(line, "\r")
			i := strings.IndexByte(line, ':')
			if i <= 0 || line[0] == '#' || strings.Trim(line[:i], "/") == "" {
				continue
			}
			words := strings.Split(strings.ReplaceAll(line[i+1:], "\t", " "), " ")
			words = slices.DeleteFunc(words, func(w string) bool { return w == "" })
			slices.Reverse(words)
			name := nameOf(line[:i])
			want[name] = append(want[name], words...)
		}
		got := kmod.ParseDep(data)
		delete(got, "/") // of a line that has slashes only
		delete(got, "")
		delete(want, "")
		require.Len(t, got, len(want))
		for name, deps := range want {
			assert.Equal(t, strings.Join(deps, " "), strings.Join(got[name], " "), name)
		}
	})
}

// FuzzAliases compares with a look at one line after the other.
func FuzzAliases(f *testing.F) {
	f.Add("alias pci:v00008086d*sv* e1000\nalias fs-ext4 ext4\nalias symbol:x y\n# c\nalias x[-a]* z\n", "pci:v00008086d0000sv1")
	f.Add("alias a-b c\nalias a_b d\nalias * e\nalias ? f\n", "a_b")
	f.Fuzz(func(t *testing.T, text, request string) {
		name, ok := kmod.Normalize(request)
		if !ok || strings.Contains(text, `\`) {
			return // libkmod compares what stands before the first wildcard byte by byte
		}
		var want []string
		for line := range strings.SplitSeq(text, "\n") {
			line = strings.TrimRight(line, "\r")
			i := strings.LastIndexByte(line, ' ')
			if !strings.HasPrefix(line, "alias ") || i <= len("alias ") {
				continue
			}
			pattern, ok := kmod.Normalize(line[len("alias "):i])
			if ok && kmod.Fnmatch(pattern, name) {
				want = append(want, line[i+1:])
			}
		}
		assert.Equal(t, want, kmod.FindAliases(text, name))
	})
}

// FuzzBuiltin reads modules.builtin and modules.builtin.modinfo.
func FuzzBuiltin(f *testing.F) {
	f.Add("kernel/fs/ext4/ext4.ko\nkernel/a-b.ko\n\n1.ko\n", "ext4.alias=fs-ext4\x00ext4.license=GPL\x00a.alias=fs-*\x00", "fs_ext4")
	f.Fuzz(func(t *testing.T, list, modinfo, request string) {
		if strings.ToValidUTF8(list, "") == list {
			want := map[string]struct{}{}
			for line := range strings.SplitSeq(list, "\n") {
				line = strings.TrimSpace(line)
				if line != "" && strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", rune(line[0])) {
					want[nameOf(line)] = struct{}{}
				}
			}
			assert.Equal(t, want, kmod.ParseBuiltin(list))
		}
		name, ok := kmod.Normalize(request)
		if !ok || strings.Contains(modinfo, `\`) {
			return
		}
		var want []string
		for entry := range strings.SplitSeq(modinfo, "\x00") {
			module, rest, ok := strings.Cut(entry, ".")
			pattern, is := strings.CutPrefix(rest, "alias=")
			pattern, balanced := kmod.Normalize(pattern)
			if ok && is && pattern != "" && balanced && kmod.Fnmatch(pattern, name) {
				want = append(want, module)
			}
		}
		assert.ElementsMatch(t, want, kmod.FindBuiltinAliases(modinfo, name))
	})
}

// FuzzSoftdeps has a line of ours among anything else.
func FuzzSoftdeps(f *testing.F) {
	f.Add("# x\nsoftdep b pre: c\njunk\n", "nfsd", "rpcsec_gss_krb5 lockd", "nfsv4")
	f.Add("softdep a-b post:\n\\\n", "a", "", "b")
	f.Fuzz(func(t *testing.T, before, module, pre, post string) {
		all := kmod.ParseSoftdeps(before)
		for name := range all {
			assert.NotEmpty(t, name)
		}
		module = "m" + strings.Join(plain(module), "")
		line := fmt.Sprintf("softdep %s pre: %s post: %s\n", module, strings.Join(plain(pre), " "), strings.Join(plain(post), " "))
		want := kmod.Softdep{Pre: plain(pre), Post: plain(post)}
		assert.Equal(t, want, kmod.ParseSoftdeps(line + before)[module], "the first counts")
		if strings.ContainsAny(before, `\`) || before != "" && !strings.HasSuffix(before, "\n") {
			return // may go on in our line
		}
		if _, known := all[module]; !known {
			assert.Equal(t, want, kmod.ParseSoftdeps(before + line)[module])
		}
	})
}

// plain gives words of letters and underscores.
func plain(s string) []string {
	var out []string
	for _, word := range strings.Fields(s) {
		word = strings.Map(func(r rune) rune {
			if 'a' <= r && r <= 'z' || r == '_' {
				return r
			}
			return -1
		}, word)
		if word != "" {
			out = append(out, word)
		}
	}
	return out
}

// FuzzSymvers writes what was read and reads it again.
func FuzzSymvers(f *testing.F) {
	f.Add("0xe1efd2e5\tvfio_device_fops\tdrivers/vfio/vfio\tEXPORT_SYMBOL_GPL\tVFIO\n0x00000000\ta\tvmlinux\tEXPORT_SYMBOL\n")
	f.Add("0x1\ta\tb-c\tEXPORT_SYMBOL\t\n")
	f.Fuzz(func(t *testing.T, text string) {
		got, err := kmod.ParseSymvers(text)
		if err != nil {
			require.ErrorIs(t, err, kmod.ErrFormat)
			return
		}
		assert.LessOrEqual(t, len(got), strings.Count(text, "\n")+1)
		var again strings.Builder
		for name, s := range got {
			assert.Equal(t, name, s.Name)
			file, kind := "vmlinux", "EXPORT_SYMBOL"
			if s.Module != "" {
				file = s.Module
			}
			if s.GPL {
				kind += "_GPL"
			}
			fmt.Fprintf(&again, "%#08x\t%s\t%s\t%s\t%s\n", s.CRC, name, file, kind, s.Namespace)
		}
		same, err := kmod.ParseSymvers(again.String())
		require.NoError(t, err)
		if strings.Contains(text, "\r") {
			return
		}
		for name, s := range got {
			if s.Module == "vmlinux" || kmod.Name(s.Module) != s.Module {
				continue // a file of that odd name
			}
			assert.Equal(t, s, same[name])
		}
	})
}

// FuzzSameParameter: a number is the same however it is written.
func FuzzSameParameter(f *testing.F) {
	f.Add("int", int64(-5), uint8(0))
	f.Add("ulong", int64(1<<40), uint8(1))
	f.Add("byte", int64(7), uint8(2))
	f.Fuzz(func(t *testing.T, typ string, n int64, how uint8) {
		abs, sign := uint64(n), ""
		if n < 0 {
			abs, sign = -abs, "-"
		}
		wanted := fmt.Sprintf([]string{"%s%d", "%s0x%x", "%s0%o", "\"%s%d\""}[how%4], sign, abs)
		shown := fmt.Sprint(n)
		for _, typ := range []string{"int", "long", "short", "array of int"} {
			same, known := kmod.SameParameter(typ, wanted, shown+"\n")
			if how%4 == 3 && strings.HasPrefix(typ, "array") {
				continue
			}
			assert.True(t, same && known, "%s %s %s", typ, wanted, shown)
			same, _ = kmod.SameParameter(typ, wanted, fmt.Sprint(n^1))
			assert.False(t, same)
		}
		same, known := kmod.SameParameter(typ, wanted, shown)
		assert.True(t, known || !same, "what is the same is known to be")
		same, known = kmod.SameParameter("charp", typ, typ)
		assert.True(t, same && known || len(typ) > 1 && typ[0] == '"' || strings.HasSuffix(typ, "\n"), "%q", typ)
	})
}
