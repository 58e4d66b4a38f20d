// SPDX-License-Identifier: Apache-2.0

// Package bundle writes what is known of a node into one archive for somebody
// who can not look at it himself. It owns the archive, its limits, and what is
// taken out of it because it is secret; it does not know what is in it.
package bundle

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"time"
)

// What a bundle may have and take. A part that is larger is cut at the end of a
// line; what comes when the bundle is full is left out. Either is told.
const (
	MaxPart  = 2 << 20  // bytes of one part
	MaxTotal = 16 << 20 // bytes of all, before compression
	MaxParts = 512
	MaxWait  = 20 * time.Second // for one part
)

// limits are those constants; tests have smaller ones.
type limits struct {
	part, total, parts int
	wait               time.Duration
}

// little is too little room to begin another part.
const little = 4 << 10

// Part is one file of a bundle. Collect writes it; it may write something and
// end with an error, then both are told. What it writes is searched for secrets
// before it goes anywhere. One that does not come back in time is left behind:
// files of a kernel that hangs can not be waited for.
type Part struct {
	Name    string // its path in the archive
	Collect func(ctx context.Context, w io.Writer) error
}

// Entry is what became of a Part.
type Entry struct {
	Name  string `json:"name"`
	Bytes int    `json:"bytes"`
	// Error is why the part, or the rest of it, could not be had; the archive has
	// it in NAME.error.
	Error string `json:"error,omitempty"`
	Cut   bool   `json:"cut,omitempty"` // it was too large
}

// errFull ends a part that is beyond the limits.
var errFull = errors.New("the part is too large")

// Write collects the parts one after the other and writes them to w as a tar.gz,
// below the directory dir, with a list of them as the last file, contents.txt.
// The error is about w: a part that can not be had is told in its Entry, and so
// is each that is left once ctx is done.
func Write(ctx context.Context, w io.Writer, dir string, now time.Time, r *Redactor, parts []Part) ([]Entry, error) {
	return write(ctx, w, dir, now, r, parts, limits{MaxPart, MaxTotal, MaxParts, MaxWait})
}

func write(ctx context.Context, w io.Writer, dir string, now time.Time, r *Redactor, parts []Part, l limits) ([]Entry, error) {
	z := gzip.NewWriter(w)
	b := &writer{tar: tar.NewWriter(z), dir: dir, now: now, limits: l}
	var entries []Entry
	for i, p := range parts {
		if i >= l.parts {
			entries = append(entries, Entry{Name: "more", Error: fmt.Sprintf("%d parts are left out: a bundle has %d at most", len(parts)-i, l.parts)})
			break
		}
		e, text := b.collect(ctx, p, r)
		entries = append(entries, e)
		if err := b.add(e, text); err != nil {
			return entries, err
		}
	}
	err := b.file("contents.txt", contents(entries))
	if err == nil {
		err = b.tar.Close()
	}
	if err == nil {
		err = z.Close()
	}
	if err != nil {
		return entries, fmt.Errorf("write bundle: %w", err)
	}
	return entries, nil
}

// writer is a bundle that is being written.
type writer struct {
	tar *tar.Writer
	dir string
	now time.Time
	had int // bytes
	limits
}

// collect waits for one part, and takes the secrets out.
func (b *writer) collect(ctx context.Context, p Part, r *Redactor) (Entry, string) {
	e := Entry{Name: path.Clean("/" + p.Name)[1:]}
	if b.total-b.had < min(little, b.part) {
		e.Error = fmt.Sprintf("left out: the bundle has %d bytes already", b.had)
		return e, ""
	}
	if err := ctx.Err(); err != nil {
		e.Error = "left out: " + err.Error()
		return e, ""
	}
	ctx, cancel := context.WithTimeout(ctx, b.wait)
	defer cancel()
	type result struct {
		buf *limited
		err error
	}
	done := make(chan result, 1)
	buf := &limited{room: min(b.part, b.total-b.had)} // that goroutine's, until it is done
	go func() {
		err := p.Collect(ctx, buf)
		done <- result{buf, err}
	}()
	var got result
	select {
	case got = <-done:
	case <-ctx.Done():
		e.Error = fmt.Sprintf("given up: it did not come within %s", b.wait)
		return e, ""
	}
	text := got.buf.buf.String()
	if e.Cut = got.buf.full; e.Cut {
		// Half of a secret at the end might not be known for one.
		text = text[:strings.LastIndexByte(text, '\n')+1]
	}
	if got.err != nil && !errors.Is(got.err, errFull) {
		e.Error = r.Text(got.err.Error())
	}
	if path.Ext(e.Name) == ".json" {
		text = r.JSON(text)
	} else {
		text = r.Text(text)
	}
	e.Bytes = len(text)
	b.had += len(text)
	return e, text
}

// add writes what there is of a part, and what there is not.
func (b *writer) add(e Entry, text string) error {
	if e.Error != "" {
		if err := b.file(e.Name+".error", e.Error+"\n"); err != nil {
			return fmt.Errorf("write bundle: %w", err)
		}
		if text == "" {
			return nil
		}
	}
	if err := b.file(e.Name, text); err != nil {
		return fmt.Errorf("write bundle: %w", err)
	}
	return nil
}

func (b *writer) file(name, text string) error {
	err := b.tar.WriteHeader(&tar.Header{
		Typeflag: tar.TypeReg, Name: path.Join(b.dir, name), Mode: 0o600, Size: int64(len(text)), ModTime: b.now, Format: tar.FormatPAX,
	})
	if err != nil {
		return err
	}
	_, err = io.WriteString(b.tar, text)
	return err
}

func contents(entries []Entry) string {
	var s strings.Builder
	s.WriteString("Secrets were taken out: look for " + Redacted + ". What could not be had is in NAME.error.\n\n")
	for _, e := range entries {
		fmt.Fprintf(&s, "%9d  %s", e.Bytes, e.Name)
		if e.Cut {
			s.WriteString("  (cut: too large)")
		}
		if e.Error != "" {
			s.WriteString("  (not had: " + strings.ReplaceAll(e.Error, "\n", " ") + ")")
		}
		s.WriteByte('\n')
	}
	return s.String()
}

// limited is a buffer that takes no more than room.
type limited struct {
	buf  bytes.Buffer // not embedded: it has more ways to write
	room int
	full bool
}

// Write keeps what there is room for; errFull for the rest.
func (l *limited) Write(p []byte) (int, error) {
	if room := l.room - l.buf.Len(); len(p) > room {
		l.full = true
		n, _ := l.buf.Write(p[:max(0, room)]) // a Buffer takes all
		return n, errFull
	}
	return l.buf.Write(p)
}
