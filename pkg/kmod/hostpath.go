// SPDX-License-Identifier: Apache-2.0

package kmod

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// maxLinks is how many links are followed in one path, as by the kernel (include/linux/namei.h, MAXSYMLINKS).
const maxLinks = 40

// rootOf is where the host is whose module directory that is: ROOT/lib/modules/RELEASE. Any other directory is one of ours.
func rootOf(dir string) string {
	root, ok := strings.CutSuffix(filepath.Dir(dir), "/lib/modules")
	if !ok {
		return "/"
	}
	return cmp.Or(strings.TrimSuffix(root, "/usr"), "/")
}

// behindLinks follows all links of a path below root as a system would that has root as its "/": an absolute one begins there,
// and none leads out of it. A container may be given the node's /lib and no /usr, when they are one: without, /usr/lib is /lib.
func behindLinks(root, path string) (string, error) {
	at, links := "/", 0
	for rest := strings.TrimPrefix(path, root); rest != ""; {
		var name string
		name, rest, _ = strings.Cut(rest, "/")
		next := filepath.Join(at, name)
		st, err := os.Lstat(root + next)
		switch {
		case errors.Is(err, fs.ErrNotExist) && next == "/usr":
		case err != nil:
			return "", err
		case st.Mode().Type() != fs.ModeSymlink:
			at = next
		case links == maxLinks:
			return "", fmt.Errorf("follow %s: %w", path, syscall.ELOOP)
		default:
			target, err := os.Readlink(root + next)
			if err != nil {
				return "", err
			}
			if filepath.IsAbs(target) {
				at = "/"
			}
			rest = target + "/" + rest
			links++
		}
	}
	return filepath.Join(root, at), nil
}
