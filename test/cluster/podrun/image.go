// SPDX-License-Identifier: Apache-2.0

package podrun

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
)

// Image is what containers of an image find in their root file system. Each gets
// one of its own.
type Image struct {
	// Binds are files and directories of this machine, read-only in the container:
	// path there, path here.
	Binds map[string]string
	Links map[string]string // path there, target
	Files map[string]string // path there, content
	Dirs  []string          // with the mode of /tmp
	// What the image says about how it is run.
	Entrypoint, Command []string
	Env                 map[string]string
}

// searchPath is what runtimes set when neither image nor pod does.
const searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Program is an image as made FROM scratch, with one static program, which is what
// it runs.
func Program(path, file string) Image {
	return Image{Binds: map[string]string{path: file}, Entrypoint: []string{path}}
}

// Buildah is an image with this machine's buildah and shell, and nothing of what
// else there is: Debian's quay.io/buildah/stable.
func Buildah() Image {
	image := Image{
		Binds: map[string]string{"/usr": "/usr", "/etc/containers": "/etc/containers"},
		Links: map[string]string{},
		Files: map[string]string{
			"/etc/passwd": "root:x:0:0:root:/root:/bin/sh\n",
			"/etc/group":  "root:x:0:\n",
		},
		Dirs: []string{"/tmp", "/var/tmp", "/root", "/var/lib/containers"},
	}
	for _, dir := range []string{"bin", "sbin", "lib", "lib64"} {
		image.Links["/"+dir] = "usr/" + dir
	}
	return image
}

// With is the image with more files.
func (i Image) With(files map[string]string) Image {
	all := maps.Clone(files)
	maps.Copy(all, i.Files)
	i.Files = all
	return i
}

// unpack makes the root file system of a container. What is bound comes with the
// mounts.
func (i Image) unpack(root string) error {
	for _, dir := range i.Dirs {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			return fmt.Errorf("unpack image: %w", err)
		}
		if err := os.Chmod(filepath.Join(root, dir), os.ModeSticky|0o777); err != nil {
			return fmt.Errorf("unpack image: %w", err)
		}
	}
	for path, content := range i.Files {
		if err := writeFile(filepath.Join(root, path), []byte(content), 0o644); err != nil {
			return fmt.Errorf("unpack image: %w", err)
		}
	}
	for path, target := range i.Links {
		if err := os.MkdirAll(filepath.Join(root, filepath.Dir(path)), 0o755); err != nil {
			return fmt.Errorf("unpack image: %w", err)
		}
		if err := os.Symlink(target, filepath.Join(root, path)); err != nil {
			return fmt.Errorf("unpack image: %w", err)
		}
	}
	return nil
}

// writeFile writes a file with just this mode, and the directories above it.
func writeFile(path string, content []byte, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(path, content, mode); err != nil {
		return err
	}
	return os.Chmod(path, mode) // whatever the umask is
}
