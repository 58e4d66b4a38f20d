// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/images"
)

// clock shows a pull, one report every step.
func clock(p *progress, step time.Duration) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	p.now = func() time.Time { return now }
	ref := "registry.example/drivers/a-driver-with-a-long-name:6.1.0-56-cloud-amd64"
	p.show(images.Progress{Ref: ref, Layers: 3})
	for i := int64(1); i <= 4; i++ {
		now = now.Add(step)
		p.show(images.Progress{Ref: ref, Bytes: i * 2_500_000, Total: 10_000_000, Layer: int(i/2) + 1, Layers: 3, Written: i, Resumes: int(i / 4)})
	}
	now = now.Add(step)
	p.show(images.Progress{Ref: ref, Bytes: 10_000_000, Total: 10_000_000, Written: 1_500_000, Resumes: 1, Done: true})
}

func lines(b *strings.Builder) func(string) { return func(line string) { b.WriteString(line + "\n") } }

func TestProgressLines(t *testing.T) {
	var b strings.Builder
	p := newProgress(lines(&b))
	clock(p, 3*time.Second)
	golden(t, "progress-lines.txt", b.String())
	assert.NotContains(t, b.String(), "\033")
}

func TestProgressBar(t *testing.T) {
	var b strings.Builder
	p := newProgress(lines(&b))
	p.bar = &b
	clock(p, 200*time.Millisecond)
	golden(t, "progress-bar.txt", strings.ReplaceAll(b.String(), "\r\033[K", "<clear>\n"))
}

func TestProgressIsSilentAboutWhatIsThere(t *testing.T) {
	var b strings.Builder
	p := newProgress(lines(&b))
	p.show(images.Progress{Ref: "a:1", Done: true})
	assert.Empty(t, b.String())
	p.show(images.Progress{Ref: "a:1"}) // is the tag still what it was?
	p.show(images.Progress{Ref: "a:1", Done: true})
	assert.Empty(t, b.String())
	p.show(images.Progress{Ref: "a:1", Layers: 1})
	p.show(images.Progress{Ref: "a:1", Done: true, Err: errors.New("no")})
	assert.Equal(t, "pull a:1\n", b.String(), "a failure is told by the command")
}

func TestProgressOnAFile(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "out"))
	require.NoError(t, err)
	defer f.Close()
	assert.Nil(t, progressOn(f).bar)
	assert.Nil(t, (&options{output: "json"}).progress(nil, nil))
}
