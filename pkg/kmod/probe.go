// SPDX-License-Identifier: Apache-2.0

package kmod

import "path/filepath"

// maxProbeLines ends a walk through soft dependencies that an image made
// explode: modprobe does not check for repetitions, and neither do we.
const maxProbeLines = 100_000

// probe walks the dependencies of one module in the order in which modprobe
// loads them (libkmod: kmod_module_get_probe_list).
type probe struct {
	index   *Index
	cfg     *Config
	visited map[found]bool
	lines   []Line
}

// module adds what m needs, deepest first, then m.
func (p *probe) module(m found) {
	key := found{name: m.name, alias: m.alias}
	if p.visited[key] || len(p.lines) > maxProbeLines {
		return
	}
	p.visited[key] = true
	for _, file := range p.index.dep[m.name].files() {
		p.withSoftdeps(found{name: pathName(file)}, file)
	}
	p.withSoftdeps(m, p.index.dep[m.name].path)
}

// withSoftdeps adds m between its soft dependencies. It may do so more than once
// for the same module, as modprobe does: vfio prints vfio.ko twice.
func (p *probe) withSoftdeps(m found, file string) {
	if len(p.lines) > maxProbeLines {
		return
	}
	soft, _ := p.cfg.softdep(m.name, p.index.softdeps)
	pre, post := p.lookupAll(soft.Pre), p.lookupAll(soft.Post)
	for _, d := range pre {
		p.module(d)
	}
	p.emit(m, file, len(pre)+len(post) > 0)
	for _, d := range post {
		p.module(d)
	}
}

func (p *probe) lookupAll(names []string) []found {
	var list []found
	for _, name := range names {
		list = append(list, p.index.lookup(p.cfg, name)...)
	}
	return list
}

// emit adds the line for m. An install command is not used for a module with soft
// dependencies (github.com/kmod-project/kmod issue 446), and a module that is
// neither a file nor builtin has no line.
func (p *probe) emit(m found, file string, soft bool) {
	options := p.cfg.moduleOptions(m.name, m.alias)
	command, ok := m.install, m.install != ""
	if !ok {
		command, ok = p.cfg.install(m.name)
	}
	if ok && !soft {
		p.lines = append(p.lines, Line{Action: "install", Module: m.name, Target: command, Options: options})
		return
	}
	if file == "" {
		if p.index.isBuiltin(m) {
			p.lines = append(p.lines, Line{Action: "builtin", Module: m.name, Target: m.name})
		}
		return
	}
	if !filepath.IsAbs(file) {
		file = p.index.dir + "/" + file
	}
	p.lines = append(p.lines, Line{Action: "insmod", Module: m.name, Target: file, Options: options})
}

func (x *Index) isBuiltin(m found) bool {
	_, ok := x.builtin[m.name]
	return ok || m.builtin
}
