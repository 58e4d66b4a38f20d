// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"slices"

	"github.com/kmm-node/kmmd/pkg/images"
	"github.com/kmm-node/kmmd/pkg/kmod"
	"github.com/kmm-node/kmmd/pkg/spec"
)

// fetch gets the files of a Module's choice for a kernel: its modules and what
// they depend on in the image. host is that kernel's own tree, or nil.
//
// What is taken from the host may itself depend on a module that the image has,
// and a file in the image beats the host's: then the image is asked again.
func (a *Agent) fetch(ctx context.Context, m *spec.Module, choice *spec.Choice, release string, host *kmod.Tree) (*images.Tree, error) {
	if choice.Awaited {
		return nil, fmt.Errorf("get %s: %w: the cluster builds or signs it, see the status of the Module", choice.Image, spec.ErrAwaited)
	}
	r := images.Request{
		Ref: choice.Image, PullPolicy: choice.PullPolicy, DirName: choice.DirName,
		Releases: spec.Release(release).Directories(), FirmwarePath: choice.FirmwarePath,
		Modules: slices.Clone(choice.Order), Closure: kmod.Closure, Firmware: kmod.Firmware, DeclaredFirmware: a.cfg.DeclaredFirmware,
		Insecure: choice.Insecure, InsecureSkipTLSVerify: choice.InsecureSkipTLSVerify,
	}
	if choice.Digest != "" {
		r.Ref += "@" + choice.Digest
	}
	if a.cfg.Secrets != nil && len(m.PullSecrets) > 0 {
		r.PullSecrets = func(ctx context.Context) []images.PullSecret {
			return a.cfg.Secrets(ctx, m.Metadata.Namespace, m.PullSecrets)
		}
	}
	for {
		t, err := a.cfg.Images.Ensure(ctx, r)
		if err != nil || host == nil {
			return t, err
		}
		asked := len(r.Modules)
		for _, name := range left(t, choice, host) {
			if !slices.Contains(r.Modules, name) {
				r.Modules = append(r.Modules, name)
			}
		}
		if len(r.Modules) == asked {
			return t, nil
		}
	}
}

// left are the modules that would come from the host though the image has them.
func left(t *images.Tree, choice *spec.Choice, host *kmod.Tree) []string {
	trees, err := openTrees(t, host)
	if err != nil {
		return nil // told by whoever opens it next
	}
	var out []string
	for _, name := range choice.Order {
		items, err := kmod.LoadOrder(name, trees...)
		if err != nil {
			continue
		}
		for _, item := range items {
			if item.Tree > 0 && t.Has(item.Info.Name) {
				out = append(out, item.Info.Name)
			}
		}
	}
	return out
}

// openTrees are the image's modules and, behind them, those of its kernel's host;
// host may be nil.
func openTrees(t *images.Tree, host *kmod.Tree) ([]*kmod.Tree, error) {
	image, err := kmod.OpenTree(t.ModulesDir)
	if err != nil || host == nil {
		return []*kmod.Tree{image}, err
	}
	return []*kmod.Tree{image, host}, nil
}

// isTarget says whether a file is the module that the document is about, and
// that its parameters are for.
func isTarget(choice *spec.Choice, info *kmod.Info) bool {
	return info.Name == choice.ModuleName || kmod.Name(info.Path) == choice.ModuleName
}

func checkParameters(choice *spec.Choice, info *kmod.Info) error {
	if err := info.CheckParameters(choice.Parameters); err != nil {
		return err
	}
	_, err := kmod.JoinParameters(choice.Parameters)
	return err
}
