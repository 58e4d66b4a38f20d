// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"fmt"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// FuzzMounts reads lines of mountinfo; one that is written as the kernel writes it
// comes back, whatever its names are.
func FuzzMounts(f *testing.F) {
	f.Add("36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw\njunk\n - \n", "/a b", "ext4", "/dev/x\ty", uint32(8), uint32(1))
	f.Add("", "-", "ext4", "/dev/x", uint32(8), uint32(1))
	f.Add(`36 35 98:0 / /a\040b rw - ext3 \134x rw`, "/é\\040", "fuse.x", "a#b", uint32(0), uint32(0))
	f.Fuzz(func(t *testing.T, text, point, kind, source string, major, minor uint32) {
		assert.LessOrEqual(t, len(parseMounts(text)), strings.Count(text, "\n")+1)
		if kind == "" || source == "" || strings.Contains(kind, `\`) || strings.ContainsFunc(kind, unicode.IsSpace) {
			return
		}
		point = "/" + point // as every path of the kernel begins
		line := fmt.Sprintf("36 35 %d:%d / %s rw,noatime master:1 - %s %s rw\n", major, minor, mangle(point), kind, mangle(source))
		got := parseMounts(text + "\n" + line)
		require.NotEmpty(t, got)
		assert.Equal(t, mount{devt{major, minor}, point, kind, source, "rw"}, got[len(got)-1])
	})
}

// mangle writes a name as fs/seq_file.c does, and what is no ASCII besides: Go
// takes more for a blank than the kernel.
func mangle(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		if strings.IndexByte(" \t\n\\#\v\f\r", c) >= 0 || c >= 0x80 {
			fmt.Fprintf(&b, `\%03o`, c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// FuzzControlGroup: the pod of a process is the UID in its path, or none.
func FuzzControlGroup(f *testing.F) {
	f.Add("4:memory:/kubepods/burstable/pod2ca9d7f6-9f4e-4c1e-8f0e-0123456789ab/0ab1\n")
	f.Add("0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod2ca9d7f6_9f4e_4c1e_8f0e_0123456789ab.slice/cri-containerd-0ab1.scope")
	f.Add("0::/user.slice/pod2ca9d7f6-9f4e-4c1e-8f0e-0123456789ab")
	f.Fuzz(func(t *testing.T, text string) {
		uid := podOf(text)
		if uid == "" {
			return
		}
		assert.Regexp(t, `^[0-9a-f]{8}(-?[0-9a-f]{4}){3}-?[0-9a-f]{12}$`, uid)
		assert.Contains(t, strings.ReplaceAll(text, "_", "-"), "pod"+uid)
		assert.Contains(t, text, "kubepods")
	})
}
