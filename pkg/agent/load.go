// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"os"

	"slices"

	"github.com/kmm-node/kmmd/pkg/images"
	"github.com/kmm-node/kmmd/pkg/kernel"
	"github.com/kmm-node/kmmd/pkg/kmod"
	"github.com/kmm-node/kmmd/pkg/plan"
)

// maxRaces is how often a load is tried again because somebody else's build
// of that name was loaded in between.
const maxRaces = 20

// replaceable reports whether another build of that name may be removed for an
// owner: the document names it as in-tree module to remove.
func (a *Agent) replaceable(owner, name string) bool {
	r := a.resolved[owner]
	return r != nil && r.want != nil && slices.Contains(r.want.Remove, name)
}

// load brings a file into the kernel and returns when the kernel runs this
// build. EEXIST and EBUSY say only that somebody else was there: what runs is
// looked at, a foreign build is removed if it may be, and the load is tried
// again.
func (a *Agent) load(ctx context.Context, file plan.File, replaceable bool) error {
	if err := verifyFile(file); err != nil {
		return err
	}
	var err error
	for range maxRaces {
		err = a.loadOnce(ctx, file)
		if err != nil && !errors.Is(err, kernel.ErrLoaded) && !errors.Is(err, kernel.ErrBusy) {
			return err
		}
		m, lookErr := a.cfg.Kernel.Module(file.Name)
		switch {
		case errors.Is(lookErr, kernel.ErrNotLoaded):
			if err == nil {
				err = fmt.Errorf("load %s: it was removed at once by somebody else: %w", file.Name, kernel.ErrBusy)
			}
			continue
		case lookErr != nil:
			return lookErr
		case m.State == "live" && m.BuildID == file.BuildID:
			return nil
		case m.State != "live":
			return errors.Join(err, fmt.Errorf("load %s: a module of that name is in the state %q: %w", file.Name, m.State, kernel.ErrBusy))
		case !replaceable:
			return errors.Join(fmt.Errorf("load %s: build-id %s runs, %s of %s is wanted: %w", file.Name, m.BuildID, file.BuildID, file.Path, errWrongBuild), err)
		}
		a.cfg.Log.Warn("another build was loaded meanwhile and is removed", "name", file.Name, "buildID", m.BuildID)
		if err := a.unload(ctx, file.Name); err != nil {
			return err
		}
	}
	return fmt.Errorf("load %s: lost the race against another loader %d times: %w", file.Name, maxRaces, errors.Join(err, kernel.ErrBusy))
}

// verifyFile hashes a file of an image again, also that of an older image which
// a rollback loads: nothing unverified reaches the kernel.
func verifyFile(file plan.File) error {
	if file.FromHost {
		return nil
	}
	return images.VerifyFile(file.Path)
}

func (a *Agent) loadOnce(ctx context.Context, file plan.File) error {
	params, err := kmod.JoinParameters(file.Parameters)
	if err != nil {
		return err
	}
	f, compressed, err := a.open(file.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	return a.cfg.Kernel.Load(ctx, kernel.LoadRequest{
		Name: file.Name, File: f, Parameters: params, Compressed: compressed,
		IgnoreVermagic: file.IgnoreVermagic, IgnoreModversions: file.IgnoreModversions,
		Timeout: a.cfg.LoadTimeout,
	})
}

// open gives a file as finit_module(2) takes it: as it is when it is plain or
// when the kernel knows its compression, else a plain copy without a name.
// compressed asks for MODULE_INIT_COMPRESSED_FILE. The caller closes it.
func (a *Agent) open(path string) (f *os.File, compressed bool, err error) {
	kind := kmod.Compression(path)
	if kind == "" || kind == a.cfg.Kernel.Compression() {
		f, err := os.Open(path)
		return f, kind != "", err
	}
	// The kernel refuses a file that anybody has open for writing (ETXTBSY,
	// fs/kernel_read_file.c), so the copy is closed and opened again.
	tmp, err := os.CreateTemp(a.cfg.RunDir, "module-*.ko")
	if err != nil {
		return nil, false, err
	}
	defer func() { _ = os.Remove(tmp.Name()) }() // an open file stays readable
	if err := errors.Join(kmod.Decompress(path, tmp), tmp.Close()); err != nil {
		return nil, false, err
	}
	f, err = os.Open(tmp.Name())
	return f, false, err
}
