// SPDX-License-Identifier: Apache-2.0

package images

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"
)

// treeVersion changes when trees are made differently; older ones are then
// made anew.
const treeVersion = 2

const treeFile = "tree.json"

// record is what is known of a file since it was taken out of a verified layer.
type record struct {
	Path   string `json:"path"`
	SHA256 string `json:"sha256"`
	Size   int64  `json:"size"`
}

// manifest is the content of tree.json.
type manifest struct {
	Version  int       `json:"version"`
	Ref      string    `json:"ref"`
	Digest   string    `json:"digest"`
	Platform string    `json:"platform"`
	Release  string    `json:"release"`
	Firmware bool      `json:"firmware"`
	Modules  []string  `json:"modules,omitempty"` // all that the directory in the image has
	Files    []record  `json:"files"`
	Links    []dropped `json:"links,omitempty"`
	Layers   []string  `json:"layers"` // digests of all layers of the image
}

// loadTree reads dir/tree.json; fs.ErrNotExist when there is none, ErrDigest
// when it is damaged, or made by another version.
func loadTree(dir string) (*Tree, error) {
	b, err := os.ReadFile(filepath.Join(dir, treeFile))
	if err != nil {
		return nil, err
	}
	var m manifest
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrDigest, treeFile, err)
	}
	if m.Version != treeVersion {
		return nil, &versionError{m.Version}
	}
	if len(m.Digest) == 0 || !filepath.IsLocal(m.Release) {
		return nil, fmt.Errorf("%w: %s is incomplete", ErrDigest, treeFile)
	}
	t := &Tree{
		Ref: m.Ref, Digest: m.Digest, Release: m.Release, dir: dir,
		ModulesDir: filepath.Join(dir, modulesPart, m.Release),
		files:      make(map[string]record, len(m.Files)), modules: m.Modules, layers: m.Layers,
	}
	if m.Firmware {
		t.FirmwareDir = filepath.Join(dir, firmwarePart)
	}
	for _, r := range m.Files {
		if !fs.ValidPath(r.Path) || r.Path == "." {
			return nil, fmt.Errorf("%w: %s: %q is no file of a tree", ErrDigest, treeFile, r.Path)
		}
		t.files[r.Path] = r
	}
	return t, nil
}

// versionError is a tree made by another version of kmmd.
type versionError struct{ version int }

func (e *versionError) Error() string {
	return fmt.Sprintf("%v: %s is of version %d, not %d", ErrDigest, treeFile, e.version, treeVersion)
}

func (e *versionError) Is(target error) bool { return target == ErrDigest }

// Has says whether the image has a module of this name, in either spelling, in the
// directory the tree was made from. Its file need not be in the tree: when it is
// not, it was not asked for.
func (t *Tree) Has(module string) bool {
	_, found := slices.BinarySearch(t.modules, canonical(module))
	return found
}

// moduleNames gives the names of the module files among picks, sorted.
func moduleNames(picks []pick) []string {
	var out []string
	for _, p := range picks {
		base := path.Base(p.path)
		for _, suffix := range []string{".ko", ".ko.xz", ".ko.zst", ".ko.gz"} {
			if name, ok := strings.CutSuffix(base, suffix); ok && name != "" {
				out = append(out, canonical(name))
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// canonical is a module's name as the kernel writes it.
func canonical(module string) string { return strings.ReplaceAll(module, "-", "_") }

// Verify reads files of the tree again and compares them with what was recorded
// when they were taken out of the image. Paths are absolute, below ModulesDir
// or FirmwareDir; without any, all files are read, and there must be no others.
// The error is ErrDigest and names each file that differs, is missing or is
// too many; an error of the disk is not ErrDigest.
func (t *Tree) Verify(paths ...string) error {
	root, err := os.OpenRoot(t.dir)
	if err != nil {
		return fmt.Errorf("%w: verify tree of %s: %w", ErrDigest, t.Ref, err)
	}
	defer func() { _ = root.Close() }()
	var errs []error
	if len(paths) == 0 {
		paths = slices.Sorted(maps.Keys(t.files))
		errs = append(errs, t.strangers())
	} else {
		paths = slices.Clone(paths)
		for i, p := range paths {
			if paths[i], err = filepath.Rel(t.dir, p); err != nil {
				return fmt.Errorf("%w: verify %s: not a file of the tree", ErrDigest, p)
			}
		}
	}
	dirs := dirRoot{root: root}
	defer dirs.close()
	for _, p := range paths {
		want, ok := t.files[p]
		if !ok {
			errs = append(errs, fmt.Errorf("%w: %s is not a file of the image", ErrDigest, filepath.Join(t.dir, p)))
			continue
		}
		dir, err := dirs.of(p)
		if err == nil {
			err = copyFile(dir, filepath.Base(p), want, nil, t.verified)
		} else if errors.Is(err, fs.ErrNotExist) {
			err = errGone
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("verify %s: %w", filepath.Join(t.dir, p), err))
		}
	}
	return errors.Join(errs...)
}

// dirRoot opens the directory of a file, and keeps it open for the next file.
type dirRoot struct {
	root *os.Root
	name string
	dir  *os.Root // nil: none yet
}

func (d *dirRoot) of(file string) (*os.Root, error) {
	name := filepath.Dir(file)
	if d.dir != nil && d.name == name {
		return d.dir, nil
	}
	d.close()
	dir, err := d.root.OpenRoot(name)
	d.dir, d.name = dir, name
	return dir, err
}

func (d *dirRoot) close() {
	if d.dir != nil {
		_ = d.dir.Close()
		d.dir = nil
	}
}

// CopyFile writes a file of a tree of a store, whichever that is, to w, and compares what it has written with what
// was recorded when the file was taken out of the image. With ErrDigest, also for a file that is in no tree, and with any
// other error, w has got something that is not to be used.
func CopyFile(path string, w io.Writer) error {
	want, root, err := recordOf(path)
	if err != nil {
		return fmt.Errorf("verify %s: %w", path, err)
	}
	defer root.Close()
	if err := copyFile(root, want.Path, want, w, nil); err != nil {
		return fmt.Errorf("verify %s: %w", path, err)
	}
	return nil
}

// strangers names what is in the tree but was not put there by this package. It goes by what directories say of their
// entries: those are not looked at one by one, as below an os.Root.
func (t *Tree) strangers() error {
	var errs []error
	top := t.dir + "/"
	err := filepath.WalkDir(top, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(p, top)
		if _, ok := t.files[name]; !ok && (!d.IsDir() || !utf8.ValidString(name)) && name != treeFile {
			errs = append(errs, fmt.Errorf("%w: %s is not a file of the image", ErrDigest, p))
		}
		return nil
	})
	return errors.Join(append(errs, err)...)
}

// copyBuffer is how much of a file is read at a time, in bytes.
const copyBuffer = 256 << 10

// errGone is a file that was in the tree.
var errGone = fmt.Errorf("%w: the file is missing", ErrDigest)

// copyFile writes a file to w and compares it with its record. Without w, one that is known to be right is not read;
// known may be nil.
func copyFile(root *os.Root, name string, want record, w io.Writer, known *verified) error {
	info, err := root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return errGone
	}
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() || info.Size() != want.Size {
		return fmt.Errorf("%w: not a file of %d bytes any more", ErrDigest, want.Size)
	}
	if w == nil && known.knows(info, want) {
		return nil
	}
	f, err := root.Open(name)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	_, leased := lease(f) // while it is open
	h := sha256.New()
	var to io.Writer = h
	if w != nil {
		to = io.MultiWriter(h, w)
	}
	in := io.LimitReader(f, want.Size+1) // as large as it was, however it grows meanwhile
	if _, err := io.CopyBuffer(onlyWriter{to}, in, make([]byte, min(copyBuffer, want.Size+1))); err != nil {
		return err
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != want.SHA256 {
		return fmt.Errorf("%w: the file is sha256:%s, was sha256:%s", ErrDigest, got, want.SHA256)
	}
	if info, err := f.Stat(); err == nil && leased {
		known.remember(info, want)
	}
	return nil
}

// onlyWriter hides the other methods of what it holds.
type onlyWriter struct{ io.Writer }
