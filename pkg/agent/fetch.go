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
// they depend on in the image. digest is what the image's tag stands for, "" for
// whatever it does. host is that kernel's own tree, or nil.
//
// What is taken from the host may itself depend on a module that the image has,
// and a file in the image beats the host's: then the image is asked again.
func (a *Agent) fetch(ctx context.Context, m *spec.Module, choice *spec.Choice, digest, release string, host *kmod.Tree) (t *images.Tree, from *sources, err error) {
	if choice.Awaited {
		return nil, nil, fmt.Errorf("get %s: %w: the cluster builds or signs it, see the status of the Module", choice.Image, spec.ErrAwaited)
	}
	r := images.Request{
		Ref: choice.Image, Digest: digest, PullPolicy: choice.PullPolicy, DirName: choice.DirName,
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
		if t, err = a.cfg.Images.Ensure(ctx, r); err != nil {
			return nil, nil, err
		}
		image, err := kmod.OpenWholeTree(t.ModulesDir)
		if err != nil || host == nil {
			return t, sourcesOf(image), err
		}
		from = sourcesOf(image, host)
		asked := len(r.Modules)
		for _, name := range left(t, choice, from) {
			if !slices.Contains(r.Modules, name) {
				r.Modules = append(r.Modules, name)
			}
		}
		if len(r.Modules) == asked {
			return t, from, nil
		}
	}
}

// sources are where the files of a Module come from: the modules of its image and, behind them, those of its kernel's
// host, if there are any.
type sources struct {
	trees  []*kmod.Tree
	orders map[string]ordered
}

// ordered is what kmod.LoadOrder has said.
type ordered struct {
	items []kmod.Item
	err   error
}

func sourcesOf(trees ...*kmod.Tree) *sources { return &sources{trees, map[string]ordered{}} }

// order is kmod.LoadOrder, the second time what it was the first time, errors too: it may take a while, and the second time
// is in the goroutine of the agent.
func (s *sources) order(name string) ([]kmod.Item, error) {
	o, ok := s.orders[name]
	if !ok {
		o.items, o.err = kmod.LoadOrder(name, s.trees...)
		s.orders[name] = o
	}
	return o.items, o.err
}

// left are the modules that would come from the host though the image has them.
func left(t *images.Tree, choice *spec.Choice, from *sources) []string {
	var out []string
	for _, name := range choice.Order {
		items, err := from.order(name)
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

// isTarget says whether a file is the module that the document is about, and
// that its parameters are for.
func isTarget(choice *spec.Choice, info *kmod.Info) bool { return isNamed(info, choice.ModuleName) }

// isNamed says whether a document that says name means this file.
func isNamed(info *kmod.Info, name string) bool {
	return info.Name == name || kmod.Name(info.Path) == name
}

func checkParameters(choice *spec.Choice, info *kmod.Info) error {
	if err := info.CheckParameters(choice.Parameters); err != nil {
		return err
	}
	_, err := kmod.JoinParameters(choice.Parameters)
	return err
}
