// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAbout(t *testing.T) {
	tests := []struct {
		module, record string
		want           bool
	}{
		{"dummy", "3,100,1,-;dummy: version magic 'a' should be 'b'\n", true},
		{"dummy", "3,100,1,-,caller=T12;dummy: Unknown symbol x (err -2)\n SUBSYSTEM=module\n", true},
		{"kmm_fw", "4,1,1,-;kmm_fw kmm_fw: Direct firmware load for kmm/fw.bin failed with error -2\n", true},
		{"kmm_fw", "4,1,1,-;misc card0: Direct firmware load for kmm/fw.bin failed with error -2\n", true},
		{"snd_hda", "6,1,1,-;snd-hda: no codecs\n", true},
		{"dummy", "3,1,1,-;Invalid ELF header magic: != \\x7fELF\n", true},
		{"dummy", "5,1,1,-;Lockdown: kmmd-child: unsigned module loading is restricted; see man kernel_lockdown.7\n", true},
		{"dummy", "5,1,1,-;Loading of unsigned module is rejected\n", true},
		{"dummy", "3,1,1,-;Module dummy is blacklisted\n", true},
		{"dummy", "1,1,1,-;BUG: kernel NULL pointer dereference, address: 0000000000000000\n", true},
		{"dummy", "3,1,1,-;Module dummy2 is blacklisted\n", false},
		{"dummy", "3,1,1,-;dummy2: version magic\n", false},
		{"dummy", "3,1,1,-;dummy\n", false},
		{"dummy", "3,1,1,-;eth0: link up\n", false},
		{"dummy", "4,1,1,-;dummy: loading out-of-tree module taints kernel.\n", false},
		{"dummy", "4,1,1,-;dummy: module verification failed: signature and/or required key missing - tainting kernel\n", false},
		{"dummy", "4,1,1,-;RIP: 0033:0x4090ee\n", false},
		{"dummy", "11,1,1,-;dummy: user space wrote this\n", false},
		{"dummy", " dummy: a property;dummy: x\n", false},
		{"dummy", "x,1,1,-;dummy: no level\n", false},
		{"dummy", "nothing\n", false},
		{"dummy", "", false},
	}
	for _, tt := range tests {
		t.Run(tt.record, func(t *testing.T) {
			lines := appendAbout(nil, tt.module, []byte(tt.record))
			assert.Equal(t, tt.want, len(lines) == 1, "%v", lines)
		})
	}
	t.Run("twice", func(t *testing.T) {
		assert.Equal(t, []string{"a: x"}, appendAbout(nil, "a", []byte("3,1,1,-;a: x\n3,2,1,-;a: x\n")))
	})
}

// TestKmsg has a plain file for the log.
func TestKmsg(t *testing.T) {
	h := emptyTree(t)
	k := h.openKmsg()
	assert.Empty(t, k.about("dummy"), "no log to read")
	k.close()

	path := h.path("dev/kmsg")
	write(t, path, "3,1,1,-;dummy: before\n")
	k = h.openKmsg()
	defer k.close()
	assert.Empty(t, k.about("dummy"))
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	require.NoError(t, err)
	defer f.Close()
	_, err = f.WriteString("3,2,1,-;dummy: after\n3,3,1,-;other: after\n")
	require.NoError(t, err)
	assert.Equal(t, []string{"dummy: after"}, k.about("dummy"))

	for i := range 100 {
		_, err = f.WriteString("3,2,1,-;dummy: line " + strings.Repeat("x", i) + "\n")
		require.NoError(t, err)
	}
	assert.Len(t, k.about("dummy"), kmsgLines)
}

func FuzzAppendAbout(f *testing.F) {
	f.Add("dummy", []byte("3,100,1,-;dummy: version magic 'a' should be 'b'\n SUBSYSTEM=module\n"))
	f.Fuzz(func(t *testing.T, module string, b []byte) {
		for _, l := range appendAbout(nil, module, b) {
			require.NotContains(t, l, "\n")
		}
	})
}
