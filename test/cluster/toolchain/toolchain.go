// SPDX-License-Identifier: Apache-2.0

// Package toolchain makes an image that a Dockerfile can build modules in: this
// machine's compiler, what kbuild runs, and the headers of a kernel of the lab, at
// the places where Debian's packages have them. It needs no network and takes
// seconds. Tests only.
package toolchain

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// packages are those a Dockerfile's RUN steps find, with what they need. All are
// there when test/vm/setup has run.
var packages = []string{
	"base-files", "binutils", "binutils-common", "binutils-x86-64-linux-gnu", "coreutils", "cpp-12", "dash", "findutils", "gcc", "gcc-12", "grep", "kmod",
	"libacl1", "libattr1", "libbinutils", "libc6", "libctf0", "libctf-nobfd0", "libelf1", "libgcc-s1", "libgmp10", "libisl23", "libjansson4", "libkmod2",
	"liblzma5", "libmpc3", "libmpfr6", "libpcre2-8-0", "libselinux1", "libssl3", "libstdc++6", "libzstd1", "make", "mawk", "sed", "zlib1g",
}

// unneeded matches files of these packages, and headers of the kernel, that no
// build here reads: they are the larger part.
var unneeded = regexp.MustCompile(`^(/etc|/usr/share)/|/gconv/|/lto1$|/lto-wrapper$|-lto-dump-|-gcov|^/usr/src/[^/]*-common/(arch/([^x]|x[^8])|include/dt-bindings/)`)

// links are those that a package's scripts make.
var links = map[string]string{
	"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64",
	"usr/bin/awk": "mawk", "usr/bin/sh": "dash",
}

// Image makes the image for a kernel release whose packages are unpacked in dir,
// as test/vm/setup does. It has one layer, not compressed: builders copy all they
// unpack.
func Image(dir, release string) (v1.Image, error) {
	files, err := installed()
	if err != nil {
		return nil, err
	}
	var layer bytes.Buffer
	w := writer{tar: tar.NewWriter(&layer), seen: map[string]bool{}}
	for path, target := range links {
		w.link(path, target)
	}
	w.tree("/", files)
	headers, err := below(dir, "usr")
	if err != nil {
		return nil, err
	}
	w.tree(dir, headers)
	w.tree(dir, []string{"/lib/modules/" + release + "/build", "/lib/modules/" + release + "/source"})
	w.dir("tmp", 0o1777)
	if err := w.close(); err != nil {
		return nil, fmt.Errorf("make image with a compiler: %w", err)
	}
	image, err := mutate.Append(mutate.MediaType(empty.Image, types.OCIManifestSchema1), mutate.Addendum{
		Layer: static.NewLayer(layer.Bytes(), types.OCIUncompressedLayer),
	})
	if err != nil {
		return nil, fmt.Errorf("make image with a compiler: %w", err)
	}
	image = mutate.ConfigMediaType(image, types.OCIConfigJSON)
	return mutate.Config(image, v1.Config{Env: []string{"PATH=/usr/sbin:/usr/bin"}})
}

// installed are the files of the packages, by their paths as these say them.
func installed() ([]string, error) {
	out, err := exec.Command("dpkg-query", append([]string{"-L"}, packages...)...).Output()
	if err != nil {
		return nil, fmt.Errorf("list files of packages: %w (test/vm/setup installs them)", err)
	}
	var files []string
	for line := range strings.Lines(string(out)) {
		if path := strings.TrimSuffix(line, "\n"); strings.HasPrefix(path, "/") { // else it is a remark
			files = append(files, path)
		}
	}
	return files, nil
}

// below are the files below a directory, by their paths from dir on.
func below(dir, root string) ([]string, error) {
	var out []string
	err := fs.WalkDir(os.DirFS(dir), root, func(path string, _ fs.DirEntry, err error) error {
		out = append(out, "/"+path)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list headers: %w (test/vm/setup unpacks them)", err)
	}
	return out, nil
}

// writer writes a layer. The first error stays.
type writer struct {
	tar  *tar.Writer
	seen map[string]bool
	err  error
}

func (w *writer) close() error {
	if w.err != nil {
		return w.err
	}
	return w.tar.Close()
}

// tree writes files that are below root.
func (w *writer) tree(root string, files []string) {
	for _, file := range files {
		if w.err == nil && !unneeded.MatchString(file) {
			w.err = w.file(root, file)
		}
	}
}

func (w *writer) file(root, path string) error {
	source := filepath.Join(root, path)
	info, err := os.Lstat(source)
	if err != nil {
		return err
	}
	name := merged(path)
	if name == "" || w.seen[name] {
		return nil
	}
	w.parents(name)
	w.seen[name] = true
	target := ""
	if info.Mode()&os.ModeSymlink != 0 {
		if target, err = os.Readlink(source); err != nil {
			return err
		}
	}
	header, err := tar.FileInfoHeader(info, target)
	if err != nil {
		return err
	}
	// Whoever builds the lab: the same image.
	*header = tar.Header{Typeflag: header.Typeflag, Name: name, Linkname: target, Size: header.Size, Mode: header.Mode, ModTime: time.Unix(0, 0)}
	if err := w.tar.WriteHeader(header); err != nil || !info.Mode().IsRegular() {
		return err
	}
	data, err := os.Open(source)
	if err != nil {
		return err
	}
	defer data.Close()
	_, err = io.Copy(w.tar, data)
	return err
}

func (w *writer) link(path, target string) {
	if w.err == nil && !w.seen[path] {
		w.parents(path)
		w.seen[path] = true
		w.err = w.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: path, Linkname: target, Mode: 0o777, ModTime: time.Unix(0, 0)})
	}
}

func (w *writer) parents(path string) {
	if dir := filepath.Dir(path); dir != "." {
		w.dir(dir, 0o755)
	}
}

func (w *writer) dir(path string, mode int64) {
	if w.err == nil && !w.seen[path] {
		w.parents(path)
		w.seen[path] = true
		w.err = w.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: path, Mode: mode, ModTime: time.Unix(0, 0)})
	}
}

// merged is a path, without the first slash, where /bin, /lib and so on are links
// to those in /usr.
func merged(path string) string {
	path = strings.TrimPrefix(path, "/")
	top, _, deeper := strings.Cut(path, "/")
	if target, ok := links[top]; ok && deeper {
		return "usr/" + path
	} else if ok && target != "" {
		return "" // the link is there
	}
	return path
}
