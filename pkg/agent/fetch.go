// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"slices"

	"github.com/kmm-node/kmmd/pkg/images"
	"github.com/kmm-node/kmmd/pkg/kmod"
	"github.com/kmm-node/kmmd/pkg/spec"
)

// fetch gets the files of a choice for a kernel: its modules and what they depend
// on in the image. host is that kernel's own tree, or nil.
//
// What is taken from the host may itself depend on a module that the image has,
// and a file in the image beats the host's: then the image is asked again.
func (a *Agent) fetch(ctx context.Context, choice *spec.Choice, release string, host *kmod.Tree) (*images.Tree, error) {
	r := images.Request{
		Ref: choice.Image, PullPolicy: choice.PullPolicy, DirName: choice.DirName,
		Releases: spec.Release(release).Directories(), FirmwarePath: choice.FirmwarePath,
		Modules: slices.Clone(choice.Order), Closure: kmod.Closure, Firmware: kmod.Firmware, DeclaredFirmware: a.cfg.DeclaredFirmware,
		Insecure: choice.Insecure, InsecureSkipTLSVerify: choice.InsecureSkipTLSVerify,
	}
	for {
		t, err := a.cfg.Images.Ensure(ctx, r)
		if err != nil || host == nil {
			return t, err
		}
		more := left(t, choice, host)
		if len(more) == 0 {
			return t, nil
		}
		r.Modules = append(r.Modules, more...)
	}
}

// left are the modules that would come from the host though the image has them.
func left(t *images.Tree, choice *spec.Choice, host *kmod.Tree) []string {
	image, err := kmod.OpenTree(t.ModulesDir)
	if err != nil {
		return nil // told by whoever opens it next
	}
	var out []string
	for _, name := range choice.Order {
		items, err := kmod.LoadOrder(name, image, host)
		if err != nil {
			continue
		}
		for _, item := range items {
			if _, taken := image.Find(item.Info.Name); item.Tree > 0 && !taken && t.Has(item.Info.Name) && !slices.Contains(out, item.Info.Name) {
				out = append(out, item.Info.Name)
			}
		}
	}
	return out
}
