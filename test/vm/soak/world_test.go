// SPDX-License-Identifier: Apache-2.0

package soak

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// world is the model: what the documents say, and what the node is to have for
// it.
type world struct {
	docs    map[string]*document
	foreign map[string]string // the kernel's own modules that somebody loaded by hand, and a parameter they have
	broken  bool              // a document that can not be read lies there: nothing is unloaded for being absent
	away    bool              // the registry can not be reached
	family  int               // the build of kmm_base that all images with it have

	// pathBefore is what firmware_class.path was before kmmd set it. With pathForgotten it has lost the ledger since: it goes
	// back to what there was at boot, or to what it found there later.
	pathBefore    string
	pathForgotten bool
}

// document is one Module.
type document struct {
	what    *what
	file    string // its name in the directory
	asked   setup  // what it says now
	runs    *setup // the last it said that could be had: what the node has; nil before there was one
	reason  string // why asked can not be had; "" when it can
	leaving bool   // it is gone, and what runs stays because of a broken document
}

// what is a kind of Module.
type what struct {
	name, module string
	parameters   []string   // words that may be given, one for each name
	always       bool       // one for each name is given
	flaws        []flaw     // ways to be wrong that only this kind has
	base         bool       // the image has kmm_base, which the module uses
	maybeBase    bool       // the image may have kmm_base, which a softdep asks for
	firmware     [][]string // sets of firmware files, of which the image has one; none: no firmware
}

// flaw is a way in which a document can not be had.
type flaw struct {
	name, reason string
	file         string // the module is this file instead
	parameter    string // and has this parameter
}

// setup is what a document asks for.
type setup struct {
	tag        string
	always     bool // the registry is asked each time
	image      image
	parameters []string
	remove     []string
	firmware   bool
	flaw       flaw
	version    int // of the document; it means nothing
}

// image is what a tag stands for.
type image struct {
	build    int // of the module
	base     int // of kmm_base, 0 without
	firmware []string
	text     string // of the firmware files
}

// family are those that may have kmm_base.
func (w *what) family() bool { return w.name == "base" || w.base || w.maybeBase }

// whats are all Modules that may be asked for.
func whats() []*what {
	return []*what{
		{name: "dummy", module: "dummy", parameters: []string{"numdummies=0", "numdummies=2", "numdummies=3"}, flaws: []flaw{
			{name: "init", reason: "InitFailed", file: "variants/init-fails/dummy.ko"},
			{name: "symbol", reason: "UnknownSymbol", file: "variants/unknown-symbol/dummy.ko"},
			{name: "vermagic", reason: "WrongKernel", file: "variants/other-release/dummy.ko"},
		}},
		{name: "base", module: "kmm_base", parameters: []string{"level=3", "level=4", "label=x", "flag=Y", "list=5,6", "big=77"}},
		{name: "dep", module: "kmm_dep", base: true},
		{name: "soft", module: "kmm_softdep", maybeBase: true},
		{name: "fw", module: "kmm_fw", firmware: [][]string{{"kmm/fw.bin"}, {"kmm/fw.bin", "shared.bin"}, {"kmm/fw.bin", "kmm/more/a.bin", "shared.bin"}}},
		{name: "slow", module: "kmm_sleep", parameters: []string{"secs=0"}, always: true, firmware: [][]string{{}, {"slow.bin"}, {"shared.bin", "more/b.bin"}}},
		{name: "fail", module: "kmm_fail", parameters: []string{"err=0"}, always: true, flaws: []flaw{{name: "init", reason: "InitFailed", parameter: "err=-19"}}},
	}
}

// flaws are ways to be wrong that each kind has.
func flaws() []flaw {
	return []flaw{
		{name: "parameter", reason: "InvalidParameter", parameter: "nosuch=1"},
		{name: "image", reason: "ImageNotFound"},
		{name: "mapping", reason: "NoMapping"},
		{name: "empty", reason: "NoModules"},
	}
}

func newWorld() *world {
	return &world{docs: map[string]*document{}, foreign: map[string]string{}, family: 1}
}

// names are the documents that ok says yes to, sorted.
func (w *world) names(ok func(*document) bool) []string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(w.docs)) {
		if ok(w.docs[name]) {
			out = append(out, name)
		}
	}
	return out
}

func (d *document) good() bool { return d.reason == "" && !d.leaving }

// hasBase reports whether kmm_base is there, or will be, because of the document.
func (d *document) hasBase() bool {
	return d.what.family() && (d.asked.image.base > 0 || d.runs != nil && d.runs.image.base > 0)
}

// sharers are the other documents because of which kmm_base is there.
func (w *world) sharers(name string) []string {
	return w.names(func(d *document) bool { return d.what.name != name && d.hasBase() })
}

// set has a document say something else.
func (w *world) set(of *what, file string, asked setup) {
	d := w.docs[of.name]
	if d == nil {
		d = &document{what: of}
		w.docs[of.name] = d
	}
	d.file, d.asked, d.reason, d.leaving = file, asked, asked.flaw.reason, false
	if d.reason != "" {
		return
	}
	d.runs = &asked
	for _, name := range asked.remove {
		delete(w.foreign, name)
	}
}

// drop takes a document away.
func (w *world) drop(name string) {
	d := w.docs[name]
	if w.broken && d.runs != nil {
		d.leaving = true
		return
	}
	delete(w.docs, name)
}

// mend takes the broken document away: what has waited for that goes.
func (w *world) mend() {
	w.broken = false
	maps.DeleteFunc(w.docs, func(_ string, d *document) bool { return d.leaving })
}

// wanted is a module that is to run: a build, with these parameters among others.
type wanted struct {
	buildID    string
	parameters []string
}

// modules are all tracked modules that are to run.
func (w *world) modules(h *host) map[string]wanted {
	out := map[string]wanted{}
	for name, parameter := range w.foreign {
		out[name] = wanted{h.inTree[name], strings.Fields(parameter)}
	}
	for _, d := range w.docs {
		if d.runs == nil {
			continue
		}
		if d.runs.image.base > 0 && d.what.name != "base" {
			if _, named := out["kmm_base"]; !named {
				out["kmm_base"] = wanted{buildID("kmm_base", d.runs.image.base), nil}
			}
		}
		out[d.what.module] = wanted{buildID(d.what.module, d.runs.image.build), d.runs.parameters}
	}
	return out
}

// firmware are the files that are to be in the firmware directory.
func (w *world) firmware() map[string]string {
	out := map[string]string{}
	for _, d := range w.docs {
		if d.runs == nil || !d.runs.firmware {
			continue
		}
		for _, file := range d.runs.image.firmware {
			out[file] = d.runs.image.content(file)
		}
	}
	return out
}

// held are the modules that modprobe is not to load.
func (w *world) held() []string {
	set := map[string]bool{}
	for _, d := range w.docs {
		if d.runs != nil {
			for _, name := range d.runs.remove {
				set[name] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(set))
}

// content of a firmware file; the one that Modules share is alike in all.
func (i image) content(file string) string {
	if file == "shared.bin" {
		return "shared"
	}
	return file + " " + i.text
}

func (w *world) String() string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(w.docs)) {
		d := w.docs[name]
		fmt.Fprintf(&b, "%s in %s: asks for %+v", name, d.file, d.asked)
		if d.reason != "" {
			fmt.Fprintf(&b, "\n\twhich is %s; the node has %+v", d.reason, d.runs)
		}
		if d.leaving {
			b.WriteString("\n\tgone, and stays for now")
		}
		b.WriteByte('\n')
	}
	fmt.Fprintf(&b, "by hand: %v, a broken document: %t", w.foreign, w.broken)
	return b.String()
}
