// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"time"

	"github.com/kmm-node/kmmd/pkg/kmod"
	"github.com/kmm-node/kmmd/pkg/plan"
	"github.com/kmm-node/kmmd/pkg/spec"
)

// errPolicy is what kmmd.toml forbids.
var errPolicy = errors.New("not allowed")

// Stage gets the images of the desired Modules for a kernel that does not run,
// and says of each Module whether it could be loaded by that kernel, as far as
// its files tell: mapping, image, dependencies, vermagic, parameters. It changes
// nothing but the image store, blocks for as long as the pulls take, and needs
// to read the kernel's /lib/modules. It may be called beside Reconcile.
func (a *Agent) Stage(ctx context.Context, release string) ([]spec.StagedModule, error) {
	desired := a.snapshot()
	if desired == nil {
		return nil, errNoDesire
	}
	return a.stage(ctx, desired, release), ctx.Err()
}

func (a *Agent) stage(ctx context.Context, desired *spec.Node, release string) []spec.StagedModule {
	out := []spec.StagedModule{}
	host, err := kmod.OpenHostTree(filepath.Join(a.cfg.ModulesDir, release))
	if err != nil {
		host = nil // what the image brings has to be enough
	}
	for i := range desired.Modules {
		m := &desired.Modules[i]
		if m.Spec.ModuleLoader == nil {
			continue
		}
		s := spec.StagedModule{Kernel: release, Namespace: m.Metadata.Namespace, Name: m.Metadata.Name}
		if err := a.stageModule(ctx, m, release, host, &s); err != nil {
			s.Reason, s.Message = ReasonOf(err), err.Error()
		}
		s.Ready = s.Reason == ""
		out = append(out, s)
	}
	return out
}

func (a *Agent) stageModule(ctx context.Context, m *spec.Module, release string, host *kmod.Tree, s *spec.StagedModule) error {
	choice, err := m.For(spec.Release(release))
	if err != nil {
		return err
	}
	s.Image = choice.Image
	tree, from, err := a.fetch(ctx, m, choice, "", release, host)
	if err != nil {
		return err
	}
	s.Digest = tree.Digest
	a.pin(s.Key()+"@"+release, []string{tree.Digest})
	for _, name := range choice.Order {
		items, err := from.order(name)
		if err != nil {
			return fmt.Errorf("image %s: %w", choice.Image, err)
		}
		for _, item := range items {
			if err := a.stageFile(choice, item, release); err != nil && !item.Soft {
				return err
			}
		}
	}
	return nil
}

func (a *Agent) stageFile(choice *spec.Choice, item kmod.Item, release string) error {
	info := item.Info
	if nameSet(a.cfg.NeverLoad)[info.Name] {
		return fmt.Errorf("%w: %s", errPolicy, plan.NeverLoad(info.Name))
	}
	if item.Tree > 0 {
		return nil
	}
	if err := checkRelease(choice, info, release); err != nil {
		return err
	}
	if !isTarget(choice, info) {
		return nil
	}
	return checkParameters(choice, info)
}

// otherKernels are the kernels that are installed and do not run. What a removed
// one leaves in /lib/modules is none.
func (a *Agent) otherKernels() ([]string, error) {
	entries, err := os.ReadDir(a.cfg.ModulesDir)
	if err != nil {
		return nil, fmt.Errorf("look for other kernels: %w", err)
	}
	var out []string
	for _, e := range entries {
		info, err := os.Stat(filepath.Join(a.cfg.ModulesDir, e.Name(), "kernel"))
		if err == nil && info.IsDir() && e.Name() != a.cfg.Kernel.Release() {
			out = append(out, e.Name())
		}
	}
	return out, nil
}

// Prestage stages for every kernel that is installed and does not run. The next
// Reconcile reports what came of it.
func (a *Agent) Prestage(ctx context.Context) error {
	desired := a.snapshot()
	if desired == nil {
		return errNoDesire
	}
	kernels, err := a.otherKernels()
	if err != nil {
		return err
	}
	staged := []spec.StagedModule{}
	for _, release := range kernels {
		staged = append(staged, a.stage(ctx, desired, release)...)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("prestage: %w", err)
	}
	a.mu.Lock()
	changed := !reflect.DeepEqual(a.staged, staged)
	a.staged = staged
	a.mu.Unlock()
	for i := range staged {
		if s := &staged[i]; changed && !s.Ready {
			a.cfg.Log.Warn("not ready for another kernel", "kernel", s.Kernel, "module", s.Key(), "reason", string(s.Reason), "err", s.Message)
		}
	}
	if changed {
		a.Trigger()
	}
	return nil
}

// keepStaged prestages whenever the wish changed and every Resync, after the
// first look at the kernel that runs.
func (a *Agent) keepStaged(ctx context.Context) {
	timer := time.NewTimer(a.cfg.Resync)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.prestage:
		case <-timer.C:
		}
		if err := a.Prestage(ctx); err != nil && ctx.Err() == nil {
			a.cfg.Log.Error("prestage", "err", err)
		}
		timer.Reset(a.cfg.Resync)
	}
}

// stagedStatus is what Prestage has found last.
func (a *Agent) stagedStatus() []spec.StagedModule {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.staged)
}
