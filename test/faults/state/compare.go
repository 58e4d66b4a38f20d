// SPDX-License-Identifier: Apache-2.0

package state

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Is says how a state differs from a wanted one; nil when it does not. Of modules
// only the wanted parameters are compared, all the rest has to be the same.
func (s State) Is(want State) error {
	var errs []error
	for _, name := range union(s.Modules, want.Modules) {
		have, runs := s.Modules[name]
		wanted, asked := want.Modules[name]
		switch {
		case !runs:
			errs = append(errs, fmt.Errorf("module %s does not run", name))
		case !asked:
			errs = append(errs, fmt.Errorf("module %s runs (build-id %s)", name, have.BuildID))
		default:
			errs = append(errs, have.is(name, wanted))
		}
	}
	for _, path := range union(s.Firmware, want.Firmware) {
		have, there := s.Firmware[path]
		wanted, asked := want.Firmware[path]
		switch {
		case !there:
			errs = append(errs, fmt.Errorf("firmware %s is missing", path))
		case !asked:
			errs = append(errs, fmt.Errorf("firmware %s is there", path))
		case have != wanted:
			errs = append(errs, fmt.Errorf("firmware %s is %q, not %q", path, have, wanted))
		}
	}
	if s.Path != want.Path {
		errs = append(errs, fmt.Errorf("firmware_class.path is %q, not %q", s.Path, want.Path))
	}
	if !slices.Equal(s.Held, want.Held) {
		errs = append(errs, fmt.Errorf("held off are %q, not %q", s.Held, want.Held))
	}
	return errors.Join(errs...)
}

func (m Module) is(name string, want Module) error {
	if m.BuildID != want.BuildID {
		return fmt.Errorf("module %s is of build-id %s, not %s", name, m.BuildID, want.BuildID)
	}
	var errs []error
	for _, p := range slices.Sorted(maps.Keys(want.Parameters)) {
		if m.Parameters[p] != want.Parameters[p] {
			errs = append(errs, fmt.Errorf("module %s has %s=%q, not %q", name, p, m.Parameters[p], want.Parameters[p]))
		}
	}
	return errors.Join(errs...)
}

// Named is a state that is allowed, and what to call it.
type Named struct {
	Name string
	State
}

// OneOf gives the name of the first of the allowed states that s is. The error
// says how it differs from each.
func (s State) OneOf(allowed ...Named) (string, error) {
	var errs []error
	for _, a := range allowed {
		err := s.Is(a.State)
		if err == nil {
			return a.Name, nil
		}
		errs = append(errs, fmt.Errorf("%s: %s", a.Name, strings.ReplaceAll(err.Error(), "\n", "; ")))
	}
	return "", fmt.Errorf("neither of the allowed states:\n%w", errors.Join(errs...))
}

// Between says what s has that no way from one state to the other goes through:
// a module of a third build or with parameters of neither, firmware that is torn
// or nobody's, another path, a hold of something else. It is what holds at any
// moment, also between two steps. Files below a directory named in staging are
// not looked at.
func (s State) Between(from, to State, staging string) error {
	var errs []error
	for name, m := range s.Modules {
		a, inA := from.Modules[name]
		b, inB := to.Modules[name]
		if (!inA || m.is(name, a) != nil) && (!inB || m.is(name, b) != nil) {
			errs = append(errs, fmt.Errorf("module %s of build-id %s with %q is of neither side", name, m.BuildID, m.Parameters))
		}
	}
	for _, path := range union(s.Firmware, from.Firmware, to.Firmware) {
		if strings.HasPrefix(path, staging+"/") {
			continue
		}
		have, there := s.Firmware[path]
		a, inA := from.Firmware[path]
		b, inB := to.Firmware[path]
		switch {
		case !there && inA && inB:
			errs = append(errs, fmt.Errorf("firmware %s is missing, both sides have it", path))
		case there && (!inA || have != a) && (!inB || have != b):
			errs = append(errs, fmt.Errorf("firmware %s is %q: of neither side", path, have))
		}
	}
	if s.Path != from.Path && s.Path != to.Path {
		errs = append(errs, fmt.Errorf("firmware_class.path is %q: of neither side", s.Path))
	}
	if !slices.Equal(s.Held, from.Held) && !slices.Equal(s.Held, to.Held) {
		errs = append(errs, fmt.Errorf("held off are %q: of neither side", s.Held))
	}
	return errors.Join(errs...)
}

// union is all keys of maps, sorted.
func union[V any](all ...map[string]V) []string {
	set := map[string]bool{}
	for _, m := range all {
		for k := range m {
			set[k] = true
		}
	}
	return slices.Sorted(maps.Keys(set))
}
