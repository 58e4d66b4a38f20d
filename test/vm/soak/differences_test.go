// SPDX-License-Identifier: Apache-2.0

package soak

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
)

// differences compares the node with the model, and what kmmd says of the node
// with both; it returns a line for each.
func (s *soak) differences() []string {
	s.Helper()
	var out []string
	differ := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	s.compareModules(differ)
	if got, want := s.host.firmware(s), s.world.firmware(); !maps.Equal(got, want) {
		differ("firmware: there is %q, wanted %q", got, want)
	}
	path := []string{s.world.pathBefore}
	switch ours := s.host.path("firmware"); {
	case len(s.world.firmware()) > 0:
		path = []string{ours}
	case s.world.pathForgotten:
		path = []string{"", otherPath, ours}
	}
	if got := s.host.firmwarePath(s); !slices.Contains(path, got) {
		differ("firmware_class.path: %q, wanted %q", got, path)
	}
	if got, want := s.host.held(s), s.world.held(); !slices.Equal(got, want) {
		differ("held off: %v, wanted %v", got, want)
	}
	s.compareStatus(differ)
	return out
}

func (s *soak) compareModules(differ func(string, ...any)) {
	got, want := s.host.modules(s), s.world.modules(s.host)
	for _, name := range tracked() {
		m, runs := got[name]
		w, wanted := want[name]
		switch {
		case runs && !wanted:
			differ("%s: build %s runs, nobody wants it", name, m.buildID)
		case !runs && wanted:
			differ("%s: does not run", name)
		case runs && (m.buildID != w.buildID || m.state != "Live"):
			differ("%s: build %s is %s, wanted %s", name, m.buildID, m.state, w.buildID)
		case runs:
			for _, word := range w.parameters {
				key, value, _ := strings.Cut(word, "=")
				if is := s.host.parameter(name, key); is != value {
					differ("%s: parameter %s is %q, wanted %q", name, key, is, value)
				}
			}
		}
	}
	others := slices.DeleteFunc(slices.Sorted(maps.Keys(got)), func(name string) bool { return slices.Contains(tracked(), name) })
	if !slices.Equal(others, s.host.others) {
		differ("other modules: %v, wanted %v", others, s.host.others)
	}
}

// compareStatus: what kmmd says has to be the truth.
func (s *soak) compareStatus(differ func(string, ...any)) {
	r := s.daemon.status()
	said := map[string]string{}
	for _, m := range r.Modules {
		said[m.Name] = strings.TrimSuffix(m.State+" "+m.Reason, " ")
		if m.State == "Loaded" { // of which document
			said[m.Name] += " " + m.Image
		}
	}
	for _, m := range r.Leaving {
		said[m.Name] = "leaving " + m.State + " " + m.Reason
	}
	want := map[string]string{}
	for name, d := range s.world.docs {
		switch {
		case d.leaving:
			want[name] = "leaving Failed Invalid"
		case s.world.away && slices.Contains([]string{"ImageNotFound", "NoModules"}, d.reason) && said[name] == "Failed ImageUnreachable":
			want[name] = said[name] // it was tried again meanwhile
		case d.reason != "":
			want[name] = "Failed " + d.reason
		default:
			want[name] = "Loaded " + d.asked.tag
		}
	}
	if !maps.Equal(said, want) {
		differ("status: %v, wanted %v", said, want)
	}
	invalid := 0
	if s.world.broken {
		invalid = 1
	}
	if len(r.Invalid) != invalid {
		differ("status: invalid documents %q, wanted %d", r.Invalid, invalid)
	}
}

// leftovers are files of something that was begun and not ended. While an image is pulled, or an old one removed, there
// are some for a moment.
func (s *soak) leftovers() []string {
	var out []string
	for _, dir := range []string{s.host.path("state/images/tmp"), s.host.path("firmware/.kmmd-staging")} {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			out = append(out, "left: "+dir+"/"+e.Name())
		}
	}
	return out
}
