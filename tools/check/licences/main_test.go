// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const isc = `Permission to use, copy, modify, and/or distribute this software for any
purpose with or without fee is hereby granted, provided that the above
copyright notice and this permission notice appear in all copies.

THE SOFTWARE IS PROVIDED "AS IS" AND THE AUTHOR DISCLAIMS ALL WARRANTIES
WITH REGARD TO THIS SOFTWARE INCLUDING ALL IMPLIED WARRANTIES OF
MERCHANTABILITY AND FITNESS. IN NO EVENT SHALL THE AUTHOR BE LIABLE FOR
ANY SPECIAL, DIRECT, INDIRECT, OR CONSEQUENTIAL DAMAGES OR ANY DAMAGES
WHATSOEVER RESULTING FROM LOSS OF USE, DATA OR PROFITS, WHETHER IN AN
ACTION OF CONTRACT, NEGLIGENCE OR OTHER TORTIOUS ACTION, ARISING OUT OF
OR IN CONNECTION WITH THE USE OR PERFORMANCE OF THIS SOFTWARE.
`

func TestJudge(t *testing.T) {
	gpl, err := os.ReadFile("../../../test/modules/LICENSE")
	require.NoError(t, err)
	apache, err := os.ReadFile("../../../LICENSE")
	require.NoError(t, err)
	assert.Empty(t, judge([]byte(isc)))
	assert.Empty(t, judge(apache))
	assert.Contains(t, judge(gpl), "GPL-2.0 is not among those")
	assert.Contains(t, judge([]byte("All rights reserved.\n")), "0 % are a known licence")
	assert.Contains(t, judge(append([]byte(isc), gpl...)), "GPL-2.0 is not among those")
	either := "SPDX-License-Identifier: "
	assert.Empty(t, judge(append([]byte(either+"ISC OR GPL-2.0-only\n"), gpl...)), "one may choose")
	assert.Contains(t, judge(append([]byte(either+"LGPL-2.1-only OR GPL-2.0-only\n"), gpl...)), "none of these")
}

func TestCheck(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "a/b"), 0o755))
	p := pkg{ImportPath: "example.org/m/a/b", Dir: filepath.Join(dir, "a/b")}
	p.Module = &struct {
		Path, Version, Dir string
		Main               bool
	}{"example.org/m", "v1.0.0", dir, false}
	_, err := check([]pkg{p})
	require.ErrorContains(t, err, "example.org/m v1.0.0: no licence")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "LICENSE"), []byte(isc), 0o644))
	n, err := check([]pkg{p, p})
	require.NoError(t, err)
	assert.Equal(t, 1, n)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "a/COPYING.txt"), []byte("mine"), 0o644))
	_, err = check([]pkg{p})
	require.ErrorContains(t, err, "a/COPYING.txt")
	_, err = check(nil)
	require.Error(t, err)
}
