// SPDX-License-Identifier: Apache-2.0

// Package content says whether the kernel modules that were taken out of an image
// fit a kernel that does not run here: the one a cluster is about to get. It reads
// the module files and, where that kernel's own are at hand, those too. It knows
// no images, asks no running kernel, and writes nothing.
package content

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/kmm-node/kmmd/pkg/kmod"
	"github.com/kmm-node/kmmd/pkg/preflight"
	"github.com/kmm-node/kmmd/pkg/spec"
)

// Files are what an image has for the kernel.
type Files struct {
	ModulesDir  string // where the image's lib/modules/<release> is here
	Path        string // what that directory is called in the image, for messages and Signed
	FirmwareDir string // where the image's firmware is here; "" when none was asked for
}

// Kernel is the kernel to come.
type Kernel struct {
	Release spec.Release
	Arch    string // as runtime.GOARCH
	// Modules are its own, from a machine or a package that has them; nil is: not
	// known, and what the image lacks is taken to be there.
	Modules *kmod.Tree
}

// Want says what is to be loaded, and how.
type Want struct {
	// Modules in the order in which they are loaded, each with what it needs; the
	// last one is what Parameters are for. Empty is all modules of the directory.
	Modules    []string
	Parameters []string
	// IgnoreVermagic says that they are to be loaded whatever their vermagic: by force if the kernel would not take it.
	IgnoreVermagic bool
	// Signed asks for signatures; nil does not.
	Signed *Signed
}

// Report is what Check found.
type Report struct {
	// Files are the module files of the image that were looked at, as paths in the
	// image.
	Files []string `json:"files"`
	// Findings are what is wrong (preflight.Error), what can not be known, and what
	// a person should know. Those of modules that only a soft dependency asks for
	// are never errors: they are left out when they can not be loaded.
	Findings []preflight.Finding `json:"findings"`
}

// OK reports that nothing was found that keeps the modules from being loaded.
func (r *Report) OK() bool { return !preflight.Blocks(r.Findings) }

// Check looks at everything that Want names. The error is only about directories
// that can not be read at all; what is wrong with the image is in the report.
func Check(f Files, k Kernel, w Want) (*Report, error) {
	tree, err := kmod.OpenTree(f.ModulesDir)
	if err != nil {
		return nil, fmt.Errorf("check %s: %w", f.Path, err)
	}
	c := &check{files: f, kernel: k, want: w, tree: tree, report: &Report{Files: []string{}, Findings: []preflight.Finding{}}}
	if len(w.Modules) == 0 {
		if c.want.Modules, err = c.all(); err != nil {
			return nil, err
		}
	}
	c.collect()
	c.judge()
	return c.report, nil
}

// check is one call of Check.
type check struct {
	files  Files
	kernel Kernel
	want   Want
	tree   *kmod.Tree
	loads  []load
	report *Report
}

// load is one file to load.
type load struct {
	module  preflight.Module
	soft    bool
	inImage bool
	path    string // in the image
}

// all are the names of all modules of the directory.
func (c *check) all() ([]string, error) {
	files, _, err := kmod.Closure(c.files.ModulesDir, nil)
	if err != nil {
		return nil, fmt.Errorf("check %s: %w", c.files.Path, err)
	}
	var names []string
	for _, f := range files {
		if !strings.HasPrefix(filepath.Base(f), "modules.") {
			names = append(names, kmod.Name(f))
		}
	}
	return names, nil
}

func (c *check) add(level preflight.Level, module string, reason spec.Reason, format string, args ...any) {
	c.report.Findings = append(c.report.Findings, preflight.Finding{Level: level, Module: module, Reason: reason, Text: fmt.Sprintf(format, args...)})
}

// collect works out which files are loaded in which order, and reads them.
func (c *check) collect() {
	if len(c.want.Modules) == 0 {
		c.add(preflight.Error, filepath.Base(c.files.Path), spec.ReasonNoModules, "%s has no module", c.files.Path)
	}
	for _, name := range c.want.Modules {
		items, err := c.order(name)
		if err != nil {
			c.add(preflight.Error, kmod.Name(name), reasonOf(err), "%v", c.atImage(err))
			continue
		}
		for _, item := range items {
			c.read(item)
		}
	}
}

// order is the load order of one module. What neither the image nor the kernel has
// is a finding.
func (c *check) order(name string) ([]kmod.Item, error) {
	if c.kernel.Modules != nil {
		return kmod.LoadOrder(name, c.tree, c.kernel.Modules)
	}
	items, absent, err := kmod.OrderWithin(name, c.tree)
	for _, a := range absent {
		said := slices.ContainsFunc(c.report.Findings, func(f preflight.Finding) bool {
			return f.Module == a.NeededBy && strings.HasPrefix(f.Text, "needs "+a.Module+",")
		})
		if !said {
			c.add(preflight.Unknown, a.NeededBy, spec.ReasonModuleNotFound, "needs %s, which is not in the image: the kernel has to bring it", a.Module)
		}
	}
	return items, err
}

// read adds a file to what is loaded; of two places the harder one counts.
func (c *check) read(item kmod.Item) {
	i := slices.IndexFunc(c.loads, func(l load) bool { return l.module.File.Info.Path == item.Info.Path })
	if i >= 0 {
		c.loads[i].soft = c.loads[i].soft && item.Soft
		return
	}
	l := load{soft: item.Soft, inImage: item.Tree == 0, path: item.Info.Path}
	if l.inImage {
		l.path = c.imagePath(item.Info.Path)
		c.report.Files = append(c.report.Files, l.path)
	}
	file, err := kmod.ReadFile(item.Info.Path)
	if err == nil {
		err = file.Examine() // whether the signature is of a kind the kernel checks; of a packed file it is known
	}
	if err != nil {
		c.blame(l, item.Info.Name, reasonOf(err), "%v", c.atImage(err))
		return
	}
	l.module = preflight.Module{File: file}
	if c.isTarget(file.Info) {
		l.module.Parameters = c.want.Parameters
	}
	c.loads = append(c.loads, l)
}

// isTarget tells the module that the parameters are for.
func (c *check) isTarget(info *kmod.Info) bool {
	target := kmod.Name(c.want.Modules[len(c.want.Modules)-1])
	return info.Name == target || kmod.Name(info.Path) == target
}

// blame adds what keeps a file from being loaded. A soft dependency is left out
// then.
func (c *check) blame(l load, module string, reason spec.Reason, format string, args ...any) {
	level := preflight.Error
	if l.soft {
		level, format = preflight.Warning, format+"; only a softdep asks for it, so it is left out"
	}
	c.add(level, module, reason, format, args...)
}

// imagePath is what a file is called in the image.
func (c *check) imagePath(file string) string {
	rel, err := filepath.Rel(c.tree.Dir(), file)
	if err != nil {
		return file
	}
	return filepath.Join(c.files.Path, rel)
}

// imageError is an error whose paths are those in the image.
type imageError struct {
	error
	text string
}

func (e *imageError) Error() string { return e.text }
func (e *imageError) Unwrap() error { return e.error }

// atImage has an error name the image's directory, not where it was unpacked to.
func (c *check) atImage(err error) error {
	return &imageError{err, strings.ReplaceAll(err.Error(), c.tree.Dir(), c.files.Path)}
}
