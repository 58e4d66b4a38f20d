// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/kmm-node/kmmd/pkg/kmod"
	"github.com/kmm-node/kmmd/pkg/plan"
)

// A package may move or replace the node's own modules while a Module waits, or while what kmmd has loaded runs: a file that was
// found once is looked for again before anything depends on it.

var (
	// errHostChanged says that the node's own modules are not what they were when a Module's files were looked for.
	errHostChanged = errors.New("the node's own modules have changed")
	errNoWayBack   = errors.New("it could not be loaded again")
)

// hostPath is where one of the node's own files is now, "" if it is nowhere.
func (a *Agent) hostPath(file plan.File) string {
	if _, err := os.Stat(file.Path); !errors.Is(err, fs.ErrNotExist) {
		return file.Path
	}
	a.openHost()
	if a.host == nil {
		return ""
	}
	path, _ := a.host.Find(file.Name)
	return path
}

// checkHost reports, before anything is touched, the node's own files that a change would come to need, to load them or to
// load them again, and that have gone. A Module that leaves goes without: nothing is worse for it.
func (a *Agent) checkHost(t plan.Transaction) error {
	if t.Leaving {
		return nil
	}
	var errs []error
	for _, s := range t.Steps {
		switch s := s.(type) {
		case plan.Unload:
			if s.Undo != nil && s.Undo.FromHost && a.hostPath(*s.Undo) == "" {
				errs = append(errs, fmt.Errorf("unload %s: %w: its file %s has gone: if the new module fails, %w", s.Name, errHostChanged, s.Undo.Path, errNoWayBack))
			}
		case plan.Load:
			if !s.File.FromHost || s.File.Optional {
				continue
			}
			if _, err := os.Stat(s.File.Path); errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, fmt.Errorf("load %s: %w: %s has gone: %w", s.File.Name, errHostChanged, s.File.Path, kmod.ErrNotFound))
			}
		}
	}
	return errors.Join(errs...)
}

// asItIs is a file of the node's own as it is there now, elsewhere or built anew: another build of the driver that ran is
// better than none.
func (a *Agent) asItIs(file plan.File) plan.File {
	if !file.FromHost {
		return file
	}
	path := a.hostPath(file)
	if path == "" {
		return file
	}
	info, err := kmod.ReadInfo(path)
	if err != nil || path == file.Path && info.BuildID == file.BuildID {
		return file
	}
	a.cfg.Log.Warn("what ran is loaded again from a file that has changed meanwhile", "name", file.Name, "was", file.Path, "is", path, "buildID", info.BuildID)
	file.Path, file.BuildID = path, info.BuildID
	return file
}
