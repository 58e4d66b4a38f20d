// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/dustin/go-humanize"
	"golang.org/x/sys/unix"

	"github.com/kmm-node/kmmd/pkg/agent"
	"github.com/kmm-node/kmmd/pkg/images"
)

// How often progress is told.
const (
	barEvery  = 100 * time.Millisecond // on a terminal
	lineEvery = 5 * time.Second        // anywhere else
)

// progress shows pulls: as a bar that is drawn again on a terminal, else line by
// line. It may be called by several goroutines.
type progress struct {
	say func(line string)
	bar io.Writer // a terminal, or nil
	now func() time.Time

	mu    sync.Mutex // guards what follows
	pulls map[string]*pullShown
	drawn bool // a bar is on the last line
}

// pullShown is what was told of one pull.
type pullShown struct{ start, last time.Time }

// newProgress shows pulls line by line.
func newProgress(say func(line string)) *progress {
	return &progress{say: say, now: time.Now, pulls: map[string]*pullShown{}}
}

// progressOn shows pulls on f, with a bar if f is a terminal.
func progressOn(f *os.File) *progress {
	p := newProgress(func(line string) { _, _ = fmt.Fprintln(f, line) })
	if _, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS); err == nil {
		p.bar = f
	}
	return p
}

// progress is what shows pulls to whoever runs the command: nobody who wants
// JSON. A daemon has metrics, and shows them in its log.
func (o *options) progress(log *slog.Logger, metrics *agent.Metrics) func(images.Progress) {
	switch {
	case metrics != nil:
		lines := newProgress(func(line string) { log.Info(line) })
		return func(u images.Progress) {
			metrics.Pull(u)
			lines.show(u)
		}
	case o.output == "json":
		return nil
	}
	return progressOn(os.Stderr).show
}

// show is an images.Options.Progress.
func (p *progress) show(u images.Progress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	s := p.pulls[u.Ref]
	if s == nil {
		if u.Done || u.Layers == 0 {
			return // nothing had to be fetched, or is not known to have to
		}
		s = &pullShown{start: now, last: now}
		p.pulls[u.Ref] = s
		if p.bar == nil {
			p.line("pull %s", u.Ref)
		}
	}
	took := now.Sub(s.start)
	switch {
	case u.Done:
		delete(p.pulls, u.Ref)
		p.clear()
		if u.Err == nil {
			p.line("pulled %s: %s in %s (%s/s), %s kept%s", u.Ref, inUnits(u.Bytes), took.Round(10*time.Millisecond),
				rate(u.Bytes, took), inUnits(u.Written), resumed(u.Resumes))
		}
	case p.bar != nil && now.Sub(s.last) >= barEvery:
		s.last = now
		p.draw(u, took)
	case p.bar == nil && now.Sub(s.last) >= lineEvery:
		s.last = now
		p.line("pull %s: %s of %s, %s/s, layer %d of %d%s", u.Ref, inUnits(u.Bytes), inUnits(u.Total), rate(u.Bytes, took),
			u.Layer, u.Layers, resumed(u.Resumes))
	}
}

func (p *progress) line(format string, args ...any) {
	p.say(fmt.Sprintf(format, args...))
}

const barWidth = 30

// draw puts the bar over the one before. What is still to fetch is only known
// as far as layers have been asked for, so the bar may fall back.
func (p *progress) draw(u images.Progress, took time.Duration) {
	p.clear()
	full := 0
	if u.Total > 0 {
		full = int(min(u.Bytes, u.Total) * barWidth / u.Total)
	}
	_, _ = fmt.Fprintf(p.bar, "%s [%s%s] %s of %s, %s/s, layer %d of %d", shortRef(u.Ref), strings.Repeat("=", full),
		strings.Repeat(" ", barWidth-full), inUnits(u.Bytes), inUnits(u.Total), rate(u.Bytes, took), u.Layer, u.Layers)
	p.drawn = true
}

// clear takes the bar away (ECMA-48, EL).
func (p *progress) clear() {
	if p.drawn {
		_, _ = io.WriteString(p.bar, "\r\033[K")
		p.drawn = false
	}
}

func resumed(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf(", resumed %dx", n)
}

func inUnits(n int64) string { return humanize.Bytes(uint64(max(n, 0))) }

func rate(n int64, d time.Duration) string {
	if d <= 0 {
		return inUnits(0)
	}
	return inUnits(int64(float64(n) / d.Seconds()))
}

// shortRef is the end of a reference, which tells images apart.
func shortRef(ref string) string {
	const most = 30
	if len(ref) <= most {
		return ref
	}
	return "…" + ref[len(ref)-most:]
}
