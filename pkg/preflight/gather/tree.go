// SPDX-License-Identifier: Apache-2.0

package gather

import (
	"path/filepath"
	"strings"

	"github.com/kmm-node/kmmd/pkg/kernel"
	"github.com/kmm-node/kmmd/pkg/kmod"
	"github.com/kmm-node/kmmd/pkg/preflight"
	"github.com/kmm-node/kmmd/pkg/sign"
)

// treeFacts is what the host's module directory tells of the running kernel.
type treeFacts struct {
	*kmod.Tree
	release string
	crcs    *kmod.CRCs

	// sure says that a file in it is the very build that runs, so that the
	// directory was not replaced by a newer build of the same release.
	sure     bool
	vermagic string
	layout   uint32 // the CRC of module_layout in that file
	trusted  []sign.Signature

	owners  map[string]string
	symvers map[string]kmod.Symver
	looked  bool // for symvers
}

// setTree keeps what is known as long as the directory is the same.
func (c *Collector) setTree(tree *kmod.Tree) {
	if tree == nil {
		c.tree = nil
		return
	}
	if c.tree != nil && c.tree.Dir() == tree.Dir() {
		c.tree.Tree = tree
		return
	}
	c.tree = &treeFacts{Tree: tree, release: c.host.Release(), crcs: kmod.NewCRCs(tree, c.host.Release())}
}

// maxIdentify bounds how many running modules are looked for in the directory.
const maxIdentify = 16

// identify looks for a running in-tree module whose file has the same build-id.
func (t *treeFacts) identify(host *kernel.Host, loaded []kernel.Module) {
	looked := 0
	for _, m := range loaded {
		if t.sure || looked == maxIdentify {
			return
		}
		path, ok := "", false
		if !strings.Contains(m.Taint, "O") { // those that are not in-tree may be the newest, and many
			path, ok = t.Find(m.Name)
		}
		if !ok {
			continue
		}
		looked++
		file, err := kmod.ReadFile(path)
		if err != nil || !file.Info.InTree || file.Info.Release() != t.release {
			continue
		}
		t.vermagic = file.Info.Vermagic
		t.layout = file.Symbols.Versions["module_layout"]
		if running, err := host.Module(m.Name); err == nil && running.BuildID != "" && running.BuildID == file.Info.BuildID {
			t.sure = true
			if file.Signature != nil && file.Signature.Problem == "" && running.Taint == "" {
				t.trusted = []sign.Signature{*file.Signature}
			}
		}
	}
}

// symbolVersions reads the Module.symvers of the kernel's build, nil when there is
// none, and tells whether it is certainly that of the kernel that runs.
func (t *treeFacts) symbolVersions(release string) (symvers map[string]kmod.Symver, sure bool) {
	if !t.looked {
		t.looked = true
		root := filepath.Join(t.Dir(), "../../..")
		for _, path := range [...]string{
			filepath.Join(t.Dir(), "build/Module.symvers"),
			filepath.Join(t.Dir(), "symvers.xz"), // Fedora
			filepath.Join(t.Dir(), "symvers.gz"), // RHEL
			filepath.Join(root, "usr/src/linux-headers-"+release, "Module.symvers"),
			filepath.Join(root, "boot/symvers-"+release+".gz"),
		} {
			if v, err := kmod.ReadSymvers(path); err == nil {
				t.symvers = v
				break
			}
		}
	}
	layout, ok := t.symvers["module_layout"]
	return t.symvers, ok && t.sure && layout.CRC == t.layout
}

// owner is the module of the host that exports a symbol, "" for none.
func (t *treeFacts) owner(symbol string) string {
	if t.owners == nil {
		owners, err := t.SymbolOwners()
		if err != nil || owners == nil {
			owners = make(map[string]string)
		}
		t.owners = owners
	}
	return t.owners[symbol]
}

// loadable gives the owners of those symbols that are not exported by what runs.
func (t *treeFacts) loadable(symbols []string, exports map[string]preflight.Export) map[string]string {
	list := make(map[string]string)
	for _, s := range symbols {
		if _, ok := exports[s]; ok {
			continue
		}
		if owner := t.owner(s); owner != "" {
			list[s] = owner
		}
	}
	return list
}
