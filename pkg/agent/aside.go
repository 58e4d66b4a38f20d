// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"io"
	"os"
	"slices"

	"github.com/kmm-node/kmmd/pkg/images"
	"github.com/kmm-node/kmmd/pkg/kernel"
	"github.com/kmm-node/kmmd/pkg/plan"
)

// asideSize is how much of module files may be set aside, in memory, all at once.
const asideSize = 64 << 20

// setAside copies into memory what a rollback is to load again once it has put back firmware: should the disk fail meanwhile, the
// node gets its driver back all the same. What can not be copied is left to the load, which says why. The caller drops the copies.
func (a *Agent) setAside(journal []undo) (drop func()) {
	a.aside = map[string]*os.File{}
	drop = func() {
		for _, f := range a.aside {
			_ = f.Close()
		}
		a.aside = nil
	}
	if !slices.ContainsFunc(journal, func(u undo) bool { return u.Firmware != nil }) {
		return drop
	}
	size := int64(0)
	for _, u := range journal {
		if u.Load == nil || a.runs(*u.Load) {
			continue
		}
		file := a.asItIs(*u.Load)
		info, err := os.Stat(file.Path)
		if err != nil || size+info.Size() > asideSize {
			continue
		}
		if f, err := copyOf(file); err == nil {
			size += info.Size()
			a.aside[file.Path] = f
		}
	}
	return drop
}

// copyOf is a file in memory, verified where it is of an image.
func copyOf(file plan.File) (*os.File, error) {
	return kernel.Sealed(file.Name, func(w io.Writer) error {
		if !file.FromHost {
			return images.CopyFile(file.Path, w)
		}
		f, err := os.Open(file.Path)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.Copy(w, f)
		return err
	})
}

// fromAside is the copy of a file that can not be read, if one was set aside. The file itself is better: the kernel may have a
// policy that knows it (IMA, LoadPin).
func (a *Agent) fromAside(file plan.File, why error) (*os.File, bool) {
	f := a.aside[file.Path]
	if f == nil {
		return nil, false
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, false
	}
	a.cfg.Log.Warn("loaded from memory: its file can not be read any more", "name", file.Name, "path", file.Path, "err", why)
	return f, true
}
