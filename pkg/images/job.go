// SPDX-License-Identifier: Apache-2.0

package images

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// job is one pull: what is known of the layers so far, and what has been kept
// of them. The newest layer is read first, each to its end, and no more of them
// than are needed.
type job struct {
	store  *Store
	q      *query
	f      *fetcher
	layers []v1.Descriptor
	dir    string // of this job alone; staged files lie in it
	l      limits
	budget *budget
	known  map[string]*layerData // by digest: a layer may be in an image twice
	staged int64                 // bytes, of files that may be wanted; at most the quota
	files  int                   // how many of them
	tried  map[string]bool       // whose listing was looked for
	next   *blob                 // under way, not read yet
	merged int                   // entries, to find out whether older layers are needed
	last   *wanted               // what the modules found so far need
	report func(Progress)
	state  Progress
}

// layerData is what has been read of a layer whose digest was right.
type layerData struct {
	entries []entry
	files   map[int]stagedFile    // by ordinal
	sums    map[int]listedContent // of all files ever staged of it
	learnt  bool                  // more than its listing says
}

// stagedFile is a file out of a layer under a name of our own.
type stagedFile struct {
	name string // in job.dir
	sum  string // sha256, hex
	size int64
}

// run reads layers until it is known what to take, and all of that is staged.
func (j *job) run(ctx context.Context) (*selection, error) {
	defer j.drop()
	j.state.Layers = len(j.layers)
	for i := len(j.layers) - 1; i >= 0; i-- {
		known, err := j.load(i)
		if err == nil && !known {
			err = j.fetch(ctx, i, j.mayTake)
		}
		if err != nil {
			return nil, err
		}
		sel, err := j.decide(ctx, i)
		if err != nil {
			return nil, err
		}
		if sel != nil {
			j.drop()
			return sel, j.provide(ctx, sel.picks())
		}
	}
	return nil, fmt.Errorf("%w: an image without layers", ErrUnsafe)
}

// digests are those of all layers of the image.
func (j *job) digests() []string {
	out := make([]string, 0, len(j.layers))
	for _, desc := range j.layers {
		out = append(out, desc.Digest.String())
	}
	return out
}

// drop ends the request for a layer that is not needed.
func (j *job) drop() {
	if j.next != nil {
		j.next.Close()
		j.next = nil
	}
}

// mayTake says whether a file is worth staging before it is known what the
// image looks like. It errs on both sides: a link may lead elsewhere. What is
// missing in the end is fetched once more.
func (j *job) mayTake(e entry) bool {
	if e.size > j.l.fileSize || e.size > min(j.l.selected, j.store.o.Quota)-j.staged {
		return false
	}
	name := path.Clean("/" + e.name)
	if j.files > j.l.files || isWhiteout(path.Base(name)) {
		return false // more than may be taken, or no file at all
	}
	for _, release := range j.q.Releases {
		if strings.Contains(name, "/modules/"+release+"/") {
			return true
		}
	}
	return j.q.firmware != "" && strings.Contains(name, strings.TrimSuffix(j.q.firmware, "/")+"/")
}

// fetch reads a layer to its end, lists it and stages the files that stage
// wants. When it fails nothing of the layer is known.
func (j *job) fetch(ctx context.Context, i int, stage func(entry) bool) error {
	desc := j.layers[i]
	b := j.take(ctx, desc)
	defer b.Close()
	data := j.known[desc.Digest.Hex]
	again := data != nil
	if !again {
		data = &layerData{files: map[int]stagedFile{}, sums: map[int]listedContent{}}
	}
	j.begin(i)
	r := &notingReader{r: b, note: func(n int64) { j.read(ctx, i, n) }}
	err := j.readLayer(ctx, i, r, func(e entry, _ *tar.Header, content io.Reader) error {
		if !again {
			data.entries = append(data.entries, e)
		}
		if e.kind != kindFile || !stage(e) {
			return nil
		}
		f, err := j.stage(desc, e, content)
		data.files[e.ordinal], data.sums[e.ordinal] = f, listedContent{f.sum, f.size}
		return err
	})
	var local *localError
	if err != nil && (errors.Is(err, ErrLimit) || errors.As(err, &local)) {
		return fmt.Errorf("layer %s: %w", desc.Digest, err)
	}
	// What a broken transfer looked like on the way says nothing.
	if whole := b.verify(); whole != nil {
		return whole
	}
	if err != nil {
		return fmt.Errorf("layer %s: %w", desc.Digest, err)
	}
	data.learnt = j.listable(i)
	j.known[desc.Digest.Hex] = data
	return nil
}

// take returns the blob of desc: the one that is under way, or a new one.
func (j *job) take(ctx context.Context, desc v1.Descriptor) *blob {
	b := j.next
	if b != nil && b.desc.Digest == desc.Digest {
		j.next = nil
	} else {
		b = j.f.open(ctx, desc)
	}
	b.hurry()
	return b
}

// read is called when n bytes of layer i have been read: close to its end the
// next layer is asked for, so that it need not be waited for, unless it is so
// large that it is likely the base, which nobody needs.
func (j *job) read(ctx context.Context, i int, n int64) {
	j.emit()
	if i == 0 || j.next != nil || j.layers[i].Size-n > readAhead {
		return
	}
	// A listing that is too much for the limits fails when its turn comes.
	desc := j.layers[i-1]
	if desc.Size > prefetchRatio*j.state.Total {
		return
	}
	if known, err := j.load(i - 1); !known && err == nil && desc.Digest != j.layers[i].Digest {
		j.next = j.f.open(ctx, desc)
	}
}

// notingReader tells how much has been read so far.
type notingReader struct {
	r    io.Reader
	n    int64
	note func(n int64)
}

func (r *notingReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	r.n += int64(n)
	r.note(r.n)
	return n, err
}

func stagedName(hex string, ordinal int) string { return fmt.Sprintf("%s-%d", hex, ordinal) }

// stage writes the content of e to a file nobody else knows of.
func (j *job) stage(desc v1.Descriptor, e entry, content io.Reader) (stagedFile, error) {
	s := stagedFile{name: stagedName(desc.Digest.Hex, e.ordinal), size: e.size}
	if j.staged+e.size > j.store.o.Quota {
		return s, onDisk(fmt.Errorf("%w: the files to look at have more than the quota of %d bytes: raise it", ErrNoSpace, j.store.o.Quota))
	}
	if err := j.store.step("stage " + e.name); err != nil {
		return s, onDisk(err)
	}
	f, err := os.OpenFile(filepath.Join(j.dir, s.name), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return s, onDisk(err)
	}
	h := sha256.New()
	_, err = io.CopyN(io.MultiWriter(diskWriter{f}, h), content, e.size)
	if err == nil {
		err = onDisk(f.Chmod(storedMode))
	}
	if err = errors.Join(err, onDisk(f.Close())); err != nil {
		return s, err
	}
	s.sum = hex.EncodeToString(h.Sum(nil))
	j.staged += e.size
	j.files++
	j.state.Written += e.size
	return s, nil
}

// file returns what is staged of content.
func (j *job) file(c content) (stagedFile, bool) {
	f, ok := j.known[j.layers[c.layer].Digest.Hex].files[c.ordinal]
	return f, ok
}

// provide fetches the layers of those picks again that have not been staged: of
// files that only links say are wanted.
func (j *job) provide(ctx context.Context, picks []pick) error {
	missing := map[string]map[int]bool{}
	for _, p := range picks {
		if _, ok := j.file(p.content); ok {
			continue
		}
		hex := j.layers[p.content.layer].Digest.Hex
		if missing[hex] == nil {
			missing[hex] = map[int]bool{}
		}
		missing[hex][p.content.ordinal] = true
	}
	if len(missing) > 0 {
		j.budget = newBudget(j.l) // each pass has one of its own
	}
	for i := len(j.layers) - 1; i >= 0 && len(missing) > 0; i-- {
		of := missing[j.layers[i].Digest.Hex]
		delete(missing, j.layers[i].Digest.Hex)
		if len(of) == 0 {
			continue
		}
		if err := j.fetch(ctx, i, func(e entry) bool { return of[e.ordinal] }); err != nil {
			return err
		}
	}
	return nil
}
