// SPDX-License-Identifier: Apache-2.0

package firmware

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// maxFiles of one owner; linux-firmware as a whole has about 4000.
const maxFiles = 32_768

// staging is where files wait for their turn, inside the firmware directory,
// so that a rename puts them in place.
const staging = ".kmmd-staging"

// List returns the files below srcDir, sorted by path. It fails with ErrUnsafe
// if something there is neither a directory nor a regular file.
func List(srcDir string) ([]File, error) {
	root, err := os.OpenRoot(srcDir)
	if err != nil {
		return nil, fmt.Errorf("list firmware: %w", err)
	}
	defer closeRoot(root)
	var out []File
	err = fs.WalkDir(root.FS(), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if !d.Type().IsRegular() {
			return fmt.Errorf("%w: %s is not a regular file", ErrUnsafe, path)
		}
		if len(out) == maxFiles {
			return fmt.Errorf("%w: more than %d files", ErrUnsafe, maxFiles)
		}
		if err := checkPath(path); err != nil {
			return err
		}
		f, err := readFile(root, path, io.Discard)
		out = append(out, f)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list firmware in %s: %w", srcDir, err)
	}
	return out, nil
}

// checkPath refuses what can not be a path below the firmware directory.
func checkPath(path string) error {
	if path == "." || !filepath.IsLocal(path) || filepath.Clean(path) != path {
		return fmt.Errorf("%w: %q is not a path below the firmware directory", ErrUnsafe, path)
	}
	if first, _, _ := strings.Cut(path, "/"); first == staging {
		return fmt.Errorf("%w: %q is used by kmmd itself", ErrUnsafe, path)
	}
	return nil
}

// readFile copies a file to w and says what it was.
func readFile(root *os.Root, path string, w io.Writer) (File, error) {
	f, err := root.Open(path)
	if err != nil {
		return File{}, err
	}
	defer func() { _ = f.Close() }()
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(w, h), f)
	if err != nil {
		return File{}, err
	}
	return File{Path: path, SHA256: hex.EncodeToString(h.Sum(nil)), Size: n}, nil
}
