// SPDX-License-Identifier: Apache-2.0

package images

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
)

// decide returns what to take of the image once layers i and above prove what
// that is, at the latest with layer 0; nil means that older layers are needed.
func (j *job) decide(ctx context.Context, i int) (*selection, error) {
	bottom := i == 0
	if !bottom && !j.affordable(i) {
		return nil, nil
	}
	m, err := j.merge(i)
	var sel *selection
	if err == nil {
		sel, err = j.q.choose(m, j.l)
	}
	switch {
	case err != nil && bottom:
		return nil, err
	case err != nil: // an older layer may have what is missing
		return nil, nil
	case !bottom && (m.uncertain() || !j.closed(sel)):
		return nil, nil
	}
	done, err := j.narrow(ctx, sel)
	if err != nil || !done && !bottom {
		return nil, err
	}
	return sel, nil
}

// affordable says whether layers i and above may be merged before the others
// are there; an image of many large layers must not cost their square.
func (j *job) affordable(i int) bool {
	for _, desc := range j.layers[i:] {
		j.merged += len(j.known[desc.Digest.Hex].entries)
	}
	return j.merged <= maxEarlyMerges
}

// merge puts layers i and above over each other.
func (j *job) merge(i int) (*merge, error) {
	m := newMerge(j.l.entries)
	for k, desc := range j.layers[i:] {
		if err := m.apply(i+k, j.known[desc.Digest.Hex].entries); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// closed says, without a look into files, whether sel may be all that the image
// has for the query.
func (j *job) closed(sel *selection) bool {
	if j.q.Closure == nil && !sel.modules.final() || sel.modules.loose {
		return false
	}
	return j.q.firmware == "" || sel.firmware.final() || j.q.declared() && !sel.firmware.loose
}

// final is true when no older layer can change anything in the directory.
func (p *part) final() bool {
	return p.sealed && !p.loose && !p.open && !slices.ContainsFunc(p.picks, isLoose)
}

func isLoose(p pick) bool { return p.loose }

// wanted is what Request.Closure and Request.Firmware say of some files.
type wanted struct {
	picks    []pick
	files    []string // below the modules directory
	complete bool
	firmware []string
}

// narrow leaves in sel only what is wanted. It returns true when sel is proven to
// be all of it.
func (j *job) narrow(ctx context.Context, sel *selection) (bool, error) {
	sel.names = moduleNames(sel.modules.picks)
	if j.q.Closure == nil {
		return j.closed(sel), nil
	}
	if j.last == nil || !slices.Equal(j.last.picks, sel.modules.picks) {
		if err := j.provide(ctx, sel.modules.picks); err != nil {
			return false, err
		}
		w, err := j.ask(sel)
		if err != nil {
			return false, err
		}
		j.last = w
	}
	w := j.last
	keep := make(map[string]bool, len(w.files))
	for _, f := range w.files {
		keep[path.Join(sel.modulesDir(), filepath.ToSlash(f))] = true
	}
	sel.modules.picks = slices.DeleteFunc(slices.Clone(sel.modules.picks), func(p pick) bool { return !keep[p.path] })
	if !w.complete || slices.ContainsFunc(sel.modules.picks, isLoose) {
		return false, nil
	}
	return j.q.firmware == "" || sel.firmware.final() || j.q.declared() && sel.firmware.has(w.firmware), nil
}

// ask shows the modules of sel to the functions of the request, in a directory
// that looks like the one in the image. A link that was not followed is there
// too, but leads nowhere.
func (j *job) ask(sel *selection) (*wanted, error) {
	root, err := os.OpenRoot(j.dir)
	if err != nil {
		return nil, onDisk(err)
	}
	defer func() { _ = root.Close() }()
	const view = "view"
	if err := j.show(root, view, sel); err != nil {
		return nil, onDisk(err)
	}
	dir := filepath.Join(j.dir, view, filepath.FromSlash(sel.modulesDir()))
	w := &wanted{picks: sel.modules.picks}
	w.files, w.complete, err = j.q.Closure(dir, j.q.Modules)
	if err == nil && j.q.firmware != "" && j.q.declared() {
		w.firmware, err = j.q.Firmware(dir, w.files)
	}
	var disk *fs.PathError
	switch {
	case errors.As(err, &disk):
		return nil, onDisk(fmt.Errorf("look at the modules of %s: %w", j.q.Ref, err))
	case err != nil:
		return nil, fmt.Errorf("%w: look at its modules: %w", ErrUnsafe, err)
	}
	return w, onDisk(root.RemoveAll(view))
}

// show fills view with the modules of sel.
func (j *job) show(root *os.Root, view string, sel *selection) error {
	if err := root.MkdirAll(path.Join(view, sel.modulesDir()), 0o700); err != nil {
		return err
	}
	for _, p := range sel.modules.picks {
		f, _ := j.file(p.content)
		at := path.Join(view, p.path)
		err := root.MkdirAll(path.Dir(at), 0o700)
		if err == nil {
			err = root.Link(f.name, at)
		}
		if err != nil {
			return err
		}
	}
	for _, l := range sel.links {
		at := path.Join(view, l.Path)
		if err := root.MkdirAll(path.Dir(at), 0o700); err != nil {
			return err
		}
		if err := root.Symlink(nowhere, at); err != nil {
			return err
		}
	}
	return nil
}

// nowhere is what links out of the image say while modules are looked at.
const nowhere = ".not-in-the-image"

// has says whether the firmware directory has all these names, and at least one;
// a driver finds a file also when it is compressed. A pattern is nothing that
// could be proven to be complete.
func (p *part) has(names []string) bool {
	have := make(map[string]bool, len(p.picks))
	for _, f := range p.picks {
		have[f.path] = !f.loose
	}
	for _, name := range names {
		at := path.Join(firmwarePart, path.Clean("/"+name))
		if !have[at] && !have[at+".xz"] && !have[at+".zst"] {
			return false
		}
	}
	return len(names) > 0
}
