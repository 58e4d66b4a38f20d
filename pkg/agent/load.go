// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/kmm-node/kmmd/pkg/kernel"
	"github.com/kmm-node/kmmd/pkg/kmod"
	"github.com/kmm-node/kmmd/pkg/plan"
)

// maxRaces is how often a load is tried again because somebody else's build
// of that name was loaded in between.
const maxRaces = 20

// aloneTries is how often a load is made that says EBUSY or EEXIST where no module
// of that name is, and alonePause is between two: who was there may have gone.
const (
	aloneTries = 3
	alonePause = 100 * time.Millisecond
)

// lateTries is how often a build that was loaded meanwhile is removed while it is in use, alonePause apart: what has just
// become live is held by its own load until its asynchronous probes are over (kernel/module/main.c, do_init_module).
const lateTries = 30

// replaceable reports whether another build of that name may be removed for an
// owner: the document names it as in-tree module to remove.
func (a *Agent) replaceable(owner, name string) bool {
	return slices.Contains(a.replaces(owner), name)
}

// replaces are the in-tree modules that a document names, as far as it could be resolved.
func (a *Agent) replaces(owner string) []string {
	if r := a.resolved[owner]; r != nil && r.want != nil {
		return r.want.Remove
	}
	return nil
}

// load brings a file into the kernel and returns when the kernel runs this
// build. EEXIST and EBUSY say only that somebody else was there: what runs is
// looked at, a foreign build is removed if it may be, and the load is tried
// again. Where nobody is to be seen, it was the module's own init function that
// said so, and would again.
func (a *Agent) load(ctx context.Context, file plan.File, replaceable bool) error {
	var err error
	seen, alone := false, 0
	for range maxRaces {
		err = a.loadOnce(ctx, file)
		if err != nil && !errors.Is(err, kernel.ErrLoaded) && !errors.Is(err, kernel.ErrBusy) || kernel.GaveUpWaiting(err) {
			return err
		}
		if err == nil && a.runs(file) {
			return nil
		}
		m, lookErr := a.cfg.Kernel.Module(file.Name)
		switch {
		case errors.Is(lookErr, kernel.ErrNotLoaded) && err == nil:
			err = fmt.Errorf("load %s: it was removed at once by somebody else: %w", file.Name, kernel.ErrBusy)
			seen, alone = true, 0
			continue
		case errors.Is(lookErr, kernel.ErrNotLoaded):
			if alone++; alone < aloneTries {
				<-time.After(alonePause)
				continue
			}
			if seen {
				return lostRace(file, err)
			}
			return kernel.OfInit(err)
		case lookErr != nil:
			return lookErr
		case m.State == "live" && m.BuildID == file.BuildID:
			return nil
		case m.State != "live":
			return errors.Join(err, fmt.Errorf("load %s: a module of that name is in the state %q: %w", file.Name, m.State, kernel.ErrBusy))
		case !replaceable:
			return errors.Join(fmt.Errorf("load %s: build-id %s runs, %s of %s is wanted: %w", file.Name, m.BuildID, file.BuildID, file.Path, errWrongBuild), err)
		}
		seen, alone = true, 0
		a.cfg.Log.Warn("another build was loaded meanwhile and is removed", "name", file.Name, "buildID", m.BuildID)
		if err := a.unloadNew(ctx, file.Name); err != nil {
			return err
		}
	}
	return lostRace(file, err)
}

// unloadNew is unload of a module that may have been loaded just now.
func (a *Agent) unloadNew(ctx context.Context, name string) error {
	err := a.unload(ctx, name)
	for try := 1; try < lateTries && errors.Is(err, kernel.ErrInUse); try++ {
		<-time.After(alonePause)
		err = a.unload(ctx, name)
	}
	return err
}

func lostRace(file plan.File, err error) error {
	return fmt.Errorf("load %s: lost the race against another loader again and again: %w", file.Name, errors.Join(err, kernel.ErrBusy))
}

// runs tells in the cheapest way whether a file's build is live.
func (a *Agent) runs(file plan.File) bool {
	state, build, err := a.cfg.Kernel.Running(file.Name)
	return err == nil && state == kernel.StateLive && build == file.BuildID
}

// attempt is a load that was made, and whether the kernel was to unpack the file.
type attempt struct {
	kernel.Loaded
	packed bool
}

// loadOnce makes the load, unless it was made ahead. It is made once more, unpacked, when the kernel was to unpack the file
// and found no module: its decoders know less than the programs that pack (kernel/module/decompress.c), and there may be no
// other way back.
func (a *Agent) loadOnce(ctx context.Context, file plan.File) error {
	l, made := a.loaded[file.Name]
	delete(a.loaded, file.Name)
	if !made {
		l = a.attempt(ctx, file, false)
	}
	if !l.packed || kernel.CauseOf(l.Err) != kernel.NotAModule {
		return l.Err
	}
	a.cfg.Log.Warn("the kernel can not unpack the file: kmmd does", "name", file.Name, "path", file.Path, "err", l.Err)
	return a.attempt(ctx, file, true).Err
}

// attempt makes the load, with unpack of a plain copy.
func (a *Agent) attempt(ctx context.Context, file plan.File, unpack bool) attempt {
	r, done, err := a.request(file, unpack)
	if err != nil {
		return attempt{Loaded: kernel.Loaded{Err: err}}
	}
	defer done()
	return attempt{kernel.Loaded{Err: a.cfg.Kernel.Load(ctx, r)}, r.Compressed}
}

// request opens a file for the kernel. The caller calls done.
func (a *Agent) request(file plan.File, unpack bool) (r kernel.LoadRequest, done func(), err error) {
	params, err := kmod.JoinParameters(file.Parameters)
	if err != nil {
		return r, nil, err
	}
	f, done, compressed, err := a.open(file, unpack)
	if err != nil {
		return r, nil, err
	}
	return kernel.LoadRequest{
		Name: file.Name, File: f, Parameters: params, Compressed: compressed,
		IgnoreVermagic: file.IgnoreVermagic, IgnoreModversions: file.IgnoreModversions,
		Timeout: a.cfg.LoadTimeout,
	}, done, nil
}

// open gives a file as finit_module(2) takes it: as it is when it is plain or when the kernel can unpack it, else, or when
// unpack asks for it, a plain copy. A file of an image, also that of an older image which a rollback loads, is one that was
// compared with its digest in this boot and that nobody can write meanwhile, or a copy in memory that was compared just now
// and can not be changed any more: nothing unverified reaches the kernel. compressed asks for MODULE_INIT_COMPRESSED_FILE.
// The caller calls done.
func (a *Agent) open(file plan.File, unpack bool) (f *os.File, done func(), compressed bool, err error) {
	f, done, err = a.source(file)
	if err != nil {
		return nil, nil, false, err
	}
	kind := kmod.CompressionOf(f)
	if kind == "" || !unpack && kind == a.cfg.Kernel.Compression() && kmod.KernelUnpacks(f) {
		return f, done, kind != "", nil
	}
	defer done()
	f, err = kernel.Sealed(file.Name, func(w io.Writer) error { return kmod.DecompressFile(f, w) })
	return f, closer(f), false, err
}

// source opens a file of the host as it is, and one of an image verified; what can not be read any more is what was set aside.
func (a *Agent) source(file plan.File) (f *os.File, done func(), err error) {
	if file.FromHost {
		f, err = os.Open(file.Path)
	} else {
		verified, done, ok := a.cfg.Images.Verified(file.Path)
		if ok {
			return verified, done, nil
		}
		f, err = copyOf(file)
	}
	if err == nil {
		return f, closer(f), nil
	}
	if f, ok := a.fromAside(file, err); ok {
		return f, func() {}, nil
	}
	return nil, nil, err
}

func closer(f *os.File) func() { return func() { _ = f.Close() } }
