// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// read gives the files of an archive by name.
func read(t *testing.T, data []byte) map[string]string {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(data))
	require.NoError(t, err)
	out := map[string]string{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		require.NoError(t, err)
		assert.Equal(t, int64(0o600), h.Mode, h.Name)
		body, err := io.ReadAll(r)
		require.NoError(t, err)
		out[h.Name] = string(body)
	}
}

func text(s string, err error) func(context.Context, io.Writer) error {
	return func(_ context.Context, w io.Writer) error {
		_, e := io.WriteString(w, s)
		return errors.Join(e, err)
	}
}

func TestWrite(t *testing.T) {
	var r Redactor
	r.Add("hunter2")
	var out bytes.Buffer
	entries, err := Write(t.Context(), &out, "d", time.Unix(0, 0), &r, []Part{
		{"a.txt", text("a hunter2\n", nil)},
		{"sub/b.txt", text("", errors.New("open b: token=abc"))},
		{"c.txt", text("half", errors.New("no more"))},
		{"../../evil", text("x", nil)},
	})
	require.NoError(t, err)
	assert.Equal(t, []Entry{
		{Name: "a.txt", Bytes: len("a " + Redacted + "\n")}, {Name: "sub/b.txt", Error: "open b: token=" + Redacted},
		{Name: "c.txt", Bytes: 4, Error: "no more"}, {Name: "evil", Bytes: 1},
	}, entries)
	files := read(t, out.Bytes())
	assert.Contains(t, files["d/contents.txt"], "sub/b.txt  (not had: open b: token="+Redacted+")")
	delete(files, "d/contents.txt")
	assert.Equal(t, map[string]string{
		"d/a.txt": "a " + Redacted + "\n", "d/sub/b.txt.error": "open b: token=" + Redacted + "\n",
		"d/c.txt": "half", "d/c.txt.error": "no more\n", "d/evil": "x",
	}, files)
}

// TestLimits: a part is cut at the end of a line, and a bundle that is full has
// no more of them.
func TestLimits(t *testing.T) {
	l := limits{part: 10050, total: 25000, parts: 6, wait: MaxWait}
	big := strings.Repeat(strings.Repeat("x", 99)+"\n", 200)
	var parts []Part
	for i := range 8 {
		parts = append(parts, Part{fmt.Sprint(i), text(big, nil)})
	}
	entries, err := write(t.Context(), io.Discard, "d", time.Now(), &Redactor{}, parts, l)
	require.NoError(t, err)
	assert.Equal(t, []Entry{
		{Name: "0", Bytes: 10000, Cut: true}, {Name: "1", Bytes: 10000, Cut: true}, {Name: "2", Bytes: 5000, Cut: true},
		{Name: "3", Error: "left out: the bundle has 25000 bytes already"}, {Name: "4", Error: "left out: the bundle has 25000 bytes already"},
		{Name: "5", Error: "left out: the bundle has 25000 bytes already"},
		{Name: "more", Error: "2 parts are left out: a bundle has 6 at most"},
	}, entries)
}

// TestHangs: a part that does not come back is left behind, the next one is had.
func TestHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hung := make(chan struct{})
		var out bytes.Buffer
		entries, err := Write(t.Context(), &out, "d", time.Now(), &Redactor{}, []Part{
			{"hangs", func(context.Context, io.Writer) error { <-hung; return nil }},
			{"next", text("here", nil)},
		})
		close(hung)
		require.NoError(t, err)
		assert.Equal(t, "given up: it did not come within 20s", entries[0].Error)
		assert.Equal(t, "here", read(t, out.Bytes())["d/next"])
	})
}

// TestWriterFails: what is about the archive is an error.
func TestWriterFails(t *testing.T) {
	_, err := Write(t.Context(), failing{}, "d", time.Now(), nil, []Part{{"a", text(strings.Repeat("x", 1<<20), nil)}})
	assert.ErrorContains(t, err, "write bundle: disk full")
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, errors.New("disk full") }
