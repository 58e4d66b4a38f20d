// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const stream = `{"config":{"db":"file:///db"}}
{"osv":{"id":"GO-1","summary":"bad module"}}
{"osv":{"id":"GO-2","summary":"bad library"}}
{"finding":{"osv":"GO-1","fixed_version":"v1.2.3","trace":[{"module":"example.org/m","version":"v1.2.2","package":"example.org/m/p","function":"F"}]}}
{"finding":{"osv":"GO-1","fixed_version":"v1.2.3","trace":[{"module":"example.org/m","version":"v1.2.2","package":"example.org/m/p","function":"G"}]}}
{"finding":{"osv":"GO-2","trace":[{"module":"stdlib","version":"v1.26.0","package":"net/http","function":"F"}]}}
{"finding":{"osv":"GO-3","trace":[{"module":"example.org/n","version":"v1.0.0"}]}}
`

func TestTell(t *testing.T) {
	found, err := read(strings.NewReader(stream))
	require.NoError(t, err)
	var out bytes.Buffer
	assert.True(t, tell(&out, "kmmd", found, false))
	assert.Equal(t, "kmmd: vulnerable: example.org/m v1.2.2, repaired in v1.2.3: GO-1 bad module\n"+
		"kmmd: warning: stdlib v1.26.0, not repaired: GO-2 bad library\n", out.String())
	assert.False(t, tell(&out, "kmmd", found[1:], false))
	assert.True(t, tell(&out, "kmmd", found[1:], true))
	assert.False(t, tell(&out, "kmmd", nil, true))
}

// TestNoFalseSuccess: nothing found is no success when nothing was looked through.
func TestNoFalseSuccess(t *testing.T) {
	_, err := read(strings.NewReader(""))
	require.Error(t, err)
	_, err = look(t.Context(), t.TempDir(), "/bin/true")
	require.ErrorContains(t, err, "has no reports")
}
