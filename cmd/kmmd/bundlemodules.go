// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/kmm-node/kmmd/pkg/bundle"
	"github.com/kmm-node/kmmd/pkg/devices"
	"github.com/kmm-node/kmmd/pkg/images"
	"github.com/kmm-node/kmmd/pkg/kernel"
	"github.com/kmm-node/kmmd/pkg/kmod"
	"github.com/kmm-node/kmmd/pkg/plan"
	"github.com/kmm-node/kmmd/pkg/source/file"
	"github.com/kmm-node/kmmd/pkg/spec"
)

// kernelParts are what the kernel is, and what it says.
func (b *collector) kernelParts() []bundle.Part {
	parts := []bundle.Part{
		{Name: "kernel/facts.json", Collect: b.kernelFacts},
		{Name: "kernel/log.txt", Collect: b.kernelLog},
		{Name: "kernel/proc/modules", Collect: b.runningModules},
	}
	for _, path := range append([]string{b.at("proc/cmdline"), b.at("proc/sys/kernel/tainted")}, b.glob("etc/modprobe.d/*.conf", "run/modprobe.d/*.conf")...) {
		name, err := filepath.Rel(b.at("/"), path)
		if err != nil {
			name = path
		}
		parts = append(parts, bundle.Part{Name: "kernel/" + name, Collect: filePart(path)})
	}
	return parts
}

// addresses are those of /proc/modules, which only root gets to see.
var addresses = regexp.MustCompile(` 0x[0-9a-f]+`)

// runningModules is /proc/modules as everybody else sees it.
func (b *collector) runningModules(_ context.Context, w io.Writer) error {
	data, err := os.ReadFile(b.at("proc/modules"))
	if err != nil {
		return err
	}
	_, err = w.Write(addresses.ReplaceAll(data, []byte(" 0x0000000000000000")))
	return err
}

// options of the kernel's configuration that decide about modules.
var kernelOptions = []string{"MODULES", "MODULE_UNLOAD", "MODULE_FORCE_LOAD", "MODVERSIONS", "MODULE_SRCVERSION_ALL", "MODULE_SIG", "MODULE_SIG_FORCE", "MODULE_SIG_ALL",
	"MODULE_COMPRESS", "MODULE_DECOMPRESS", "TRIM_UNUSED_KSYMS", "KALLSYMS_ALL", "SECURITY_LOCKDOWN_LSM", "SECONDARY_TRUSTED_KEYRING", "INTEGRITY_MACHINE_KEYRING", "FW_LOADER_COMPRESS", "DEBUG_INFO_BTF_MODULES"}

// facts are what the kernel says of itself.
type facts struct {
	Release      string            `json:"release"`
	Version      string            `json:"version"`
	FirmwarePath string            `json:"firmwarePath"`
	Held         []string          `json:"held"` // autoload is held off
	Compression  string            `json:"compression"`
	Config       map[string]string `json:"config"`
	Security     kernel.Security   `json:"security"`
	Trusted      []string          `json:"trustedCertificates"` // of db and MOK
}

func (b *collector) kernelFacts(_ context.Context, w io.Writer) error {
	if b.noHost != nil {
		return b.noHost
	}
	f := facts{Release: b.host.Release(), Version: b.host.Version(), Compression: b.host.Compression(), Config: map[string]string{}, Security: b.host.Security()}
	for _, c := range f.Security.Certificates {
		f.Trusted = append(f.Trusted, fmt.Sprintf("%s: %s, serial %x", c.Source, c.Subject, c.SerialNumber))
	}
	f.Security.Certificates = nil
	for _, option := range kernelOptions {
		if value, known := b.host.Config(option); known {
			f.Config[option] = value
		}
	}
	var pathErr, heldErr error
	f.FirmwarePath, pathErr = b.host.FirmwarePath()
	f.Held, heldErr = b.host.Held()
	return errors.Join(writeJSON(w, f), pathErr, heldErr)
}

func (b *collector) kernelLog(_ context.Context, w io.Writer) error {
	if b.noHost != nil {
		return b.noHost
	}
	names := b.moduleNames()
	if loaded, err := b.host.Modules(); err == nil {
		for _, m := range loaded {
			if m.Taint != "" { // out-of-tree ones
				names = append(names, m.Name)
			}
		}
	}
	lines, err := b.host.ModuleLog(names)
	out := &printer{w: w}
	for _, l := range lines {
		out.line("%s", l)
	}
	return errors.Join(err, out.err)
}

// store lists the images. A node without a store has none made for it.
func (b *collector) store(_ context.Context, w io.Writer) error {
	if _, err := os.Stat(b.c.imageDir()); err != nil {
		return err
	}
	s, err := images.Open(b.c.imageDir(), images.Options{Quota: b.c.ImageQuota.Bytes})
	if err != nil {
		return err
	}
	list, listErr := s.List()
	usage, usageErr := s.Usage()
	return errors.Join(listErr, usageErr, writeJSON(w, struct {
		Images []storedImage `json:"images"`
		Bytes  int64         `json:"bytes"`
		Quota  int64         `json:"quota"`
	}{storedImages(list), usage.Bytes, usage.Quota}), s.Close())
}

// ledger gives the modules that kmmd has loaded or adopted in this boot.
func (b *collector) ledger() map[string]plan.Entry {
	var l struct {
		Modules map[string]plan.Entry `json:"modules"`
	}
	if data, err := readSome(filepath.Join(b.c.RunDir, "ledger.json")); err != nil || json.Unmarshal(data, &l) != nil {
		return nil // told by ledger.json itself
	}
	return l.Modules
}

// moduleNames are the modules that are wanted, loaded by kmmd, or to be replaced.
func (b *collector) moduleNames() []string {
	var names []string
	for _, m := range slices.Concat(b.status.Modules, b.status.Leaving) {
		for _, l := range m.Kernel {
			names = append(names, l.Name)
		}
	}
	for name := range b.ledger() {
		names = append(names, name)
	}
	node, _, err := (&file.Source{Path: b.c.ModulesDir}).Read()
	if err == nil && b.host != nil {
		if joined, err := openCluster(b.c, b.o, nil, newLog()); err == nil {
			node = wish(node, joined)
		}
		for i := range node.Modules {
			if choice, err := node.Modules[i].For(spec.Release(b.host.Release())); err == nil {
				names = append(names, slices.Concat(choice.Order, choice.RemoveInTree)...)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// moduleParts are two for each module: what it is, and who uses it.
func (b *collector) moduleParts() []bundle.Part {
	var parts []bundle.Part
	for _, name := range b.moduleNames() {
		parts = append(parts,
			bundle.Part{Name: "modules/" + name + ".json", Collect: func(_ context.Context, w io.Writer) error { return b.module(w, name) }},
			bundle.Part{Name: "modules/" + name + ".use.txt", Collect: func(_ context.Context, w io.Writer) error {
				use, err := b.c.devices().Of(name)
				if errors.Is(err, devices.ErrNotLoaded) {
					return err
				}
				_, e := fmt.Fprintln(w, use)
				return errors.Join(err, e)
			}})
	}
	return parts
}

// moduleFile is what a file says of itself, as modinfo shows it.
type moduleFile struct {
	File      string     `json:"file"`
	From      string     `json:"from"` // ledger, store or host
	Info      *kmod.Info `json:"info,omitempty"`
	Signature string     `json:"signature,omitempty"`
	Error     string     `json:"error,omitempty"`
}

func (b *collector) module(w io.Writer, name string) error {
	var out struct {
		Kernel   *kernel.Module `json:"kernel,omitempty"`
		NoKernel string         `json:"notInTheKernel,omitempty"`
		Files    []moduleFile   `json:"files"`
	}
	if b.noHost != nil {
		out.NoKernel = b.noHost.Error()
	} else if m, err := b.host.Module(name); err != nil {
		out.NoKernel = err.Error()
	} else {
		out.Kernel = &m
	}
	seen := map[string]bool{}
	add := func(from, path string) {
		if !seen[path] {
			seen[path] = true
			out.Files = append(out.Files, readModule(from, path))
		}
	}
	if e, ok := b.ledger()[name]; ok {
		add("ledger", e.File.Path)
	}
	err := filepath.WalkDir(filepath.Join(b.c.imageDir(), "trees"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && strings.Contains(d.Name(), ".ko") && kmod.Name(path) == name {
			add("store", path)
		}
		return nil // what can not be looked into has nothing for us
	})
	if b.host != nil {
		if tree, err := kmod.OpenHostTree(filepath.Join(b.c.hostModules(), b.host.Release())); err == nil {
			if path, ok := tree.Find(name); ok {
				add("host", path)
			}
		}
	}
	return errors.Join(err, writeJSON(w, out))
}

func readModule(from, path string) moduleFile {
	m := moduleFile{File: path, From: from}
	f, err := kmod.ReadFile(path)
	if err != nil {
		m.Error = err.Error()
		return m
	}
	m.Info = f.Info
	if f.Signature != nil {
		m.Signature = fmt.Sprintf("%s, %s", f.Signature, f.Signature.Hash)
	}
	return m
}
