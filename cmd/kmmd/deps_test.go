// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/kmod"
	"github.com/kmm-node/kmmd/pkg/kmod/kmodtest"
)

func TestDeps(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "lib/modules/6.1")
	kmodtest.WriteTree(t, dir, map[string]kmodtest.Spec{
		"kernel/base.ko": {}, "kernel/middle.ko.xz": {Depends: []string{"base"}}, "extra/top.ko": {Depends: []string{"middle", "base"}},
	})
	for name, content := range map[string]string{
		"modules.dep":             "kernel/base.ko:\nkernel/middle.ko.xz: kernel/base.ko\nextra/top.ko: kernel/middle.ko.xz kernel/base.ko\n",
		"modules.alias":           "alias net-pf-99 top\n",
		"modules.builtin":         "kernel/crypto/md5.ko\n",
		"modules.builtin.modinfo": "md5.license=GPL\x00",
		"modules.symbols":         "",
		"modules.softdep":         "",
	} {
		write(t, filepath.Join(dir, name), content)
	}
	write(t, filepath.Join(root, "etc/modprobe.d/x.conf"), "options top level=1\nblacklist base\n")
	base, middle := "insmod "+dir+"/kernel/base.ko ", "insmod "+dir+"/kernel/middle.ko.xz "
	top := "insmod " + dir + "/extra/top.ko level=1 "
	for _, tt := range []struct {
		name  string
		names []string
		want  []string
		err   string
	}{
		{"one", []string{"top"}, []string{base, middle, top}, ""},
		{"an alias", []string{"net-pf-99"}, []string{base, middle, top}, ""},
		{"two", []string{"middle", "base"}, []string{base, middle, base}, ""},
		{"built in", []string{"md5"}, []string{"builtin md5"}, ""},
		{"unknown", []string{"nope"}, nil, "nope"},
		{"unknown among known: the others are told", []string{"base", "nope", "middle", "neither"}, []string{base, base, middle}, "neither"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out, err := kmmd(t, append([]string{"deps", "--root", root, "--kernel", "6.1"}, tt.names...)...)
			want := ""
			for _, line := range tt.want {
				want += line + "\n"
			}
			assert.Equal(t, want, out)
			if tt.err == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorIs(t, err, kmod.ErrNotFound)
			assert.ErrorContains(t, err, tt.err)
			assert.Equal(t, 1, exitCode(err))
		})
	}
	t.Run("json", func(t *testing.T) {
		out, err := kmmd(t, "deps", "--root", root, "--kernel", "6.1", "-o", "json", "middle", "nope", "md5")
		assert.Equal(t, 1, exitCode(err))
		var got map[string][]string
		require.NoError(t, json.Unmarshal([]byte(out), &got))
		assert.Equal(t, map[string][]string{"middle": {base, middle}, "md5": {"builtin md5"}}, got)
	})
}
