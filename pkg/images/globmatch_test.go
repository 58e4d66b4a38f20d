// SPDX-License-Identifier: Apache-2.0

package images

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestGlobMatch(t *testing.T) {
	for _, tt := range []struct {
		pattern, file string
		want          bool
	}{
		{"/opt/a.ko", "/opt/a.ko", true},
		{"/opt//./a.ko", "/opt/a.ko", true},
		{"/opt/a.ko", "/opt/b.ko", false},
		{"/opt/a.ko", "/opt/a.ko/b", false},
		{"/opt/*/*.ko", "/opt/x/a.ko", true},
		{"/opt/*.ko", "/opt/x/a.ko", false},
		{"/opt/*", "/opt/.a", false},
		{"/opt/.a", "/opt/.a", true},
		{"/opt/[!a]?.ko", "/opt/bb.ko", true},
		{"/opt/[!a]?.ko", "/opt/ab.ko", false},
		{`/opt/\*.ko`, "/opt/*.ko", true},
		{`/opt/\*.ko`, "/opt/a.ko", false},
	} {
		g, err := ParseGlob(tt.pattern)
		require.NoError(t, err)
		assert.Equal(t, tt.want, g.Match(tt.file), "%s %s", tt.pattern, tt.file)
	}
}
