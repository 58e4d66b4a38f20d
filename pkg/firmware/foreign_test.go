// SPDX-License-Identifier: Apache-2.0

package firmware

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestForeignFiles: a file x that was there, as the KMM operator leaves them, is used by images that have just its
// bytes. It goes by the next image of the same owner, whose it is then, and is nobody's again with its own bytes.
func TestForeignFiles(t *testing.T) {
	x := func(content string) files { return files{"x": content} }
	for _, tt := range []struct {
		name     string
		installs []files // one after the other
		now      files
		left     files // when the owner has left
	}{
		{"used", []files{x("1")}, x("1"), x("1")},
		{"an upgrade", []files{x("1"), x("2")}, x("2"), files{}},
		{"of another size", []files{x("1"), x("22")}, x("22"), files{}},
		{"two upgrades", []files{x("1"), x("2"), x("3")}, x("3"), files{}},
		{"an upgrade that is rolled back", []files{x("1"), x("2"), x("1")}, x("1"), x("1")},
		{"two upgrades that are rolled back", []files{x("1"), x("2"), x("3"), x("2"), x("1")}, x("1"), x("1")},
		{"another upgrade after that", []files{x("1"), x("2"), x("1"), x("3")}, x("3"), files{}},
		{"the image has it no more", []files{x("1"), {"y": "2"}}, files{"x": "1", "y": "2"}, x("1")},
		{"the image has it no more, after an upgrade", []files{x("1"), x("2"), {"y": "2"}}, files{"y": "2"}, files{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			write(t, w.dir, x("1"))
			for _, f := range tt.installs {
				list, err := List(source(t, f))
				require.NoError(t, err)
				require.NoError(t, w.d.Check("a", list))
				w.mustInstall("a", f)
				changed, err := w.install("a", f)
				require.NoError(t, err)
				assert.False(t, changed, "once more")
			}
			assert.Equal(t, tt.now, w.read())
			require.NoError(t, w.d.Remove("a"))
			assert.Equal(t, tt.left, w.read())
		})
	}
}

// TestForeignFileOfTwo: with another owner of the same bytes it is replaced once that one has left, and the one who
// is left has them.
func TestForeignFileOfTwo(t *testing.T) {
	w := newWorld(t)
	write(t, w.dir, files{"x": "1"})
	w.mustInstall("a", files{"x": "1"})
	w.mustInstall("b", files{"x": "1"})
	_, err := w.install("b", files{"x": "2"})
	var conflict *ConflictError
	require.ErrorAs(t, err, &conflict)
	assert.Equal(t, ConflictError{Path: "x", Wanted: "b", Owner: "a"}, *conflict)
	require.NoError(t, w.d.Remove("a"))
	assert.Equal(t, files{"x": "1"}, w.read())
	w.mustInstall("b", files{"x": "2"})
	w.mustInstall("a", files{"x": "2"})
	require.NoError(t, w.d.Remove("b"))
	assert.Equal(t, files{"x": "2"}, w.read())
	require.NoError(t, w.d.Remove("a"))
	assert.Empty(t, w.read())
}

// TestForeignFileThatIsGone: what somebody has removed is put there as any other file.
func TestForeignFileThatIsGone(t *testing.T) {
	for _, content := range []string{"1", "2"} {
		w := newWorld(t)
		write(t, w.dir, files{"x": "1"})
		w.mustInstall("a", files{"x": "1"})
		w.remove("x")
		w.mustInstall("a", files{"x": content})
		require.NoError(t, w.d.Remove("a"))
		assert.Empty(t, w.read())
	}
}
