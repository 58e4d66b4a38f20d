// SPDX-License-Identifier: Apache-2.0

package kmod_test

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/kmm-node/kmmd/pkg/kmod"
	"github.com/kmm-node/kmmd/pkg/kmod/kmodtest"
	"github.com/kmm-node/kmmd/test/debian"
)

// benchTree makes a tree as large as a distribution's: 1200 modules in chains of
// eight, each with ten aliases.
func benchTree(b *testing.B, suffix string) string {
	b.Helper()
	dir := b.TempDir()
	modules := make(map[string]kmodtest.Spec)
	var dep, alias, builtin strings.Builder
	for i := range 1200 {
		spec := kmodtest.Spec{Vermagic: vermagic, Params: []kmodtest.Param{{Name: "level", Type: "int"}}}
		fmt.Fprintf(&dep, "kernel/m%d%s:", i, suffix)
		for k := i - 1; k >= i-i%8; k-- {
			fmt.Fprintf(&dep, " kernel/m%d%s", k, suffix)
		}
		dep.WriteByte('\n')
		if i%8 > 0 {
			spec.Depends = []string{fmt.Sprintf("m%d", i-1)}
		}
		for k := range 10 {
			fmt.Fprintf(&alias, "alias pci:v%08Xd%08Xsv*sd*bc*sc*i* m%d\n", i, k, i)
		}
		modules[fmt.Sprintf("kernel/m%d%s", i, suffix)] = spec
		fmt.Fprintf(&builtin, "kernel/b%d.ko\n", i)
	}
	kmodtest.WriteTree(b, dir, modules)
	writeFiles(b, dir, map[string]string{"modules.dep": dep.String(), "modules.alias": alias.String(), "modules.builtin": builtin.String()})
	return dir
}

func BenchmarkOpenTreeLoadOrder(b *testing.B) {
	dir := benchTree(b, ".ko")
	b.ReportAllocs()
	for b.Loop() {
		tree, err := kmod.OpenTree(dir)
		if err != nil {
			b.Fatal(err)
		}
		if items, err := kmod.LoadOrder("m1007", tree); err != nil || len(items) != 8 {
			b.Fatal(items, err)
		}
	}
}

// BenchmarkManyDepends has twice as many, and must not take four times as long.
func BenchmarkManyDepends(b *testing.B) {
	for _, n := range []int{20_000, 40_000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			spec := kmodtest.Spec{}
			for i := range n {
				spec.Depends = append(spec.Depends, fmt.Sprintf("m%06d", i))
			}
			dir := b.TempDir()
			kmodtest.WriteTree(b, dir, map[string]kmodtest.Spec{"nic.ko": spec})
			tree, err := kmod.OpenTree(dir)
			if err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				if _, _, err := kmod.OrderWithin("nic", tree); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkOpenIndex(b *testing.B) {
	dir := benchTree(b, ".ko")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := kmod.OpenIndex(dir); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkShowDepends(b *testing.B) {
	x, err := kmod.OpenIndex(benchTree(b, ".ko"))
	if err != nil {
		b.Fatal(err)
	}
	for _, name := range []string{"m1007", "pci:v000003EFd00000005sv00000000sd00000000bc00sc00i00"} {
		b.Run(name[:3], func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := x.ShowDepends(nil, name); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkReadInfo(b *testing.B) {
	for _, suffix := range []string{".ko", ".ko.gz", ".ko.xz", ".ko.zst"} {
		b.Run(suffix, func(b *testing.B) {
			dir := b.TempDir()
			spec := fullSpec()
			for i := range 10000 { // a module of some 600 kB
				spec.Imports = append(spec.Imports, fmt.Sprintf("symbol_%d", i*i))
			}
			kmodtest.WriteTree(b, dir, map[string]kmodtest.Spec{"m" + suffix: spec})
			b.ReportAllocs()
			for b.Loop() {
				if _, err := kmod.ReadInfo(filepath.Join(dir, "m"+suffix)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkReadLabKernel reads every module of the lab's kernels.
func BenchmarkReadLabKernel(b *testing.B) {
	lab, releases := debian.Kernels(b)
	for _, release := range releases {
		dir := filepath.Join(lab, release, "lib/modules", release)
		b.Run(release, func(b *testing.B) {
			for b.Loop() {
				for _, line := range readLines(b, dir, "modules.dep") {
					file, _, _ := strings.Cut(line, ":")
					if _, err := kmod.ReadInfo(filepath.Join(dir, file)); err != nil {
						b.Fatal(err)
					}

				}
			}
		})
	}
}
