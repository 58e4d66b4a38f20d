// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestSyslogRecords(t *testing.T) {
	tests := []struct{ name, line, want string }{
		{"with a time", "<4>[   12.345678] dummy: bad magic\n", "4,0,0,-;dummy: bad magic\n"},
		{"without", "<4>dummy: bad magic\n", "4,0,0,-;dummy: bad magic\n"},
		{"with the caller", "<3>[    1.000001][    T1] a: b\n", "3,0,0,-;a: b\n"},
		{"with the processor", "<3>[    1.000001][   C12] a: b\n", "3,0,0,-;a: b\n"},
		{"of user space", "<12>[    1.000001] a: b\n", "12,0,0,-;a: b\n"},
		{"a bracket of its own", "<6>[drm] a: b\n", "6,0,0,-;[drm] a: b\n"},
		{"what harms a terminal", "<6>a: \x1b[31m \\ \xc3\xa9\n", `6,0,0,-;a: \x1b[31m \x5c \xc3\xa9` + "\n"},
		{"cut at the front", "5678] dummy: bad magic\n", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			assert.Equal(t, tt.want, string(syslogRecords([]byte(tt.line))))
		})
	}
}

func TestSince(t *testing.T) {
	tests := []struct{ name, log, mark, want string }{
		{"nothing new", "ab\n", "ab\n", ""},
		{"something new", "ab\ncd\n", "ab\n", "cd\n"},
		{"the last of several", "ab\nab\ncd\n", "ab\n", "cd\n"},
		{"overwritten", "cd\n", "ab\n", "cd\n"},
		{"there was nothing", "cd\n", "", "cd\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			assert.Equal(t, tt.want, string(since([]byte(tt.log), []byte(tt.mark))))
		})
	}
}
