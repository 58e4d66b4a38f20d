// SPDX-License-Identifier: Apache-2.0

package soak

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/stretchr/testify/require"
)

// Steps that are about documents and images.

func whatOf(name string) *what {
	all := whats()
	return all[slices.IndexFunc(all, func(w *what) bool { return w.name == name })]
}

// setup draws what a document is to ask for; ok is false when that is impossible
// beside the others.
func (s *soak) setup(of *what) (set setup, ok bool) {
	old := s.world.docs[of.name]
	s.store.count++
	set = setup{tag: s.store.fresh(of), always: s.chance(50), version: s.store.count}
	if s.chance(15) {
		all := append(flaws(), of.flaws...)
		set.flaw = all[s.rng.IntN(len(all))]
	}
	set.image.build = s.store.count
	// The same build once more, but a build-id is one file's.
	if old != nil && s.chance(30) && set.flaw.file == old.asked.flaw.file {
		set.image.build = old.asked.image.build
	}
	alone := len(s.world.sharers(of.name)) == 0
	if of.family() {
		if !of.maybeBase || s.chance(50) {
			set.image.base = s.world.family
		}
		// Whoever shares kmm_base wants the same of it.
		if base := s.world.docs["base"]; set.image.base > 0 && of.name != "base" && base != nil && base.hasParameters() {
			return set, false
		}
		if set.image.base > 0 && alone && set.flaw.name == "" && s.chance(70) {
			s.world.family++
			set.image.base = s.world.family
		}
	}
	if of.name == "base" {
		set.image.build = set.image.base
	}
	if of.name != "base" || alone {
		set.parameters = s.parameters(of)
	}
	if set.flaw.parameter != "" {
		set.parameters = []string{set.flaw.parameter}
	}
	if of.name == "dummy" {
		set.remove = []string{"dummy", "null_blk"}[:1+s.rng.IntN(2)]
	}
	if len(of.firmware) > 0 {
		set.image.firmware = of.firmware[s.rng.IntN(len(of.firmware))]
		set.image.text = fmt.Sprint(s.store.count)
		set.firmware = len(set.image.firmware) > 0
	}
	return set, true
}

func (d *document) hasParameters() bool {
	return len(d.asked.parameters) > 0 || d.runs != nil && len(d.runs.parameters) > 0
}

// parameters draws some of a kind, one for each name.
func (s *soak) parameters(of *what) []string {
	chosen := map[string]bool{}
	var out []string
	for _, word := range of.parameters {
		name, _, _ := strings.Cut(word, "=")
		if !chosen[name] && (of.always || s.chance(50)) {
			chosen[name] = true
			out = append(out, word)
		}
	}
	return out
}

// ask writes a document that asks for something new.
func (s *soak) ask(name, file string) string {
	of := whatOf(name)
	set, ok := s.setup(of)
	if !ok {
		return ""
	}
	s.store.push(s, of, set)
	s.write(of, file, set)
	s.world.set(of, file, set)
	return fmt.Sprintf("%s: %+v", name, set)
}

func (s *soak) addNamed(name string) string {
	return s.ask(name, name+s.pick([]string{".yaml", ".yml", ".toml"}))
}

func (s *soak) add() string {
	var absent []string
	for _, w := range whats() {
		if d := s.world.docs[w.name]; d == nil || d.leaving {
			absent = append(absent, w.name)
		}
	}
	if name := s.pick(absent); name != "" {
		return s.addNamed(name)
	}
	return ""
}

// present are the documents in the directory.
func (s *soak) present() []string {
	return s.world.names(func(d *document) bool { return !d.leaving })
}

func (s *soak) change() string {
	if name := s.pick(s.present()); name != "" {
		return s.ask(name, s.world.docs[name].file)
	}
	return ""
}

func (s *soak) takeAway() string {
	name := s.pick(s.present())
	if name != "" {
		s.remove(s.world.docs[name].file)
		s.world.drop(name)
	}
	return name
}

// several changes some documents at once, each one time: kmmd need not see what
// lies there only for a moment.
func (s *soak) several() string {
	var did []string
	all := whats()
	for _, i := range s.rng.Perm(len(all))[:2+s.rng.IntN(3)] {
		name := all[i].name
		d := s.world.docs[name]
		switch {
		case d == nil || d.leaving:
			did = append(did, s.addNamed(name))
		case s.chance(35):
			s.remove(d.file)
			s.world.drop(name)
			did = append(did, name+" goes")
		default:
			did = append(did, s.ask(name, d.file))
		}
	}
	return strings.Join(did, "; ")
}

// again writes a document as it was.
func (s *soak) again() string {
	name := s.pick(s.present())
	if name != "" {
		d := s.world.docs[name]
		s.write(d.what, d.file, d.asked)
	}
	return name
}

// movedTag has a tag stand for another image. A document that changes has its tag
// looked up again when it says Always, else what is in the store counts.
func (s *soak) movedTag() string {
	name := s.pick(s.world.names(func(d *document) bool { return d.good() && !d.what.family() }))
	if name == "" {
		return ""
	}
	d := s.world.docs[name]
	s.store.count++
	moved := d.asked
	moved.version = s.store.count
	moved.image.build = s.store.count
	moved.image.text = fmt.Sprint(s.store.count)
	s.store.push(s, d.what, moved)
	if kept := s.store.asked(d.asked); !moved.always {
		moved.image = kept
	}
	s.write(d.what, d.file, moved)
	s.world.set(d.what, d.file, moved)
	return fmt.Sprintf("%s: %+v", name, moved)
}

func (s *soak) breakDocument() string {
	if s.world.broken {
		return ""
	}
	s.world.broken = true
	s.put("broken.yaml", s.pick([]string{"kind: [", "", "kind: Module\nkind: Module\n", "apiVersion: kmm.sigs.x-k8s.io/v1beta1\nkind: Module\nmetadata: {name: x}\nspec: {nosuch: 1}\n"}))
	return "broken.yaml"
}

func (s *soak) mendDocument() string {
	if !s.world.broken {
		return ""
	}
	s.remove("broken.yaml")
	s.world.mend()
	return "broken.yaml goes"
}

// clutter are files that are no documents.
func (s *soak) clutter() string {
	name := s.pick([]string{".hidden.yaml", "backup.yaml~", "notes.txt", ".dummy.yaml.swp"})
	s.put(name, "kind: [")
	require.NoError(s, os.MkdirAll(s.host.path("docs/sub.yaml"), 0o755))
	s.looks(1)
	s.remove(name)
	return name
}

// rival is a second Module that wants another build of dummy: both are told, and
// nothing changes.
func (s *soak) rival() string {
	d := s.world.docs["dummy"]
	if d == nil || !d.good() {
		return ""
	}
	s.store.count++
	other := &what{name: "rival", module: "dummy"}
	set := setup{tag: s.store.fresh(other), image: image{build: s.store.count}, remove: []string{"dummy"}, flaw: flaw{reason: "Conflict"}}
	s.store.push(s, other, set)
	s.write(other, "rival.yaml", set)
	s.world.set(other, "rival.yaml", set)
	d.reason = "Conflict"
	s.settle()
	s.remove("rival.yaml")
	s.world.drop("rival")
	d.reason = ""
	return "came and went"
}
