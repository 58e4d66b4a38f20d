// SPDX-License-Identifier: Apache-2.0

package kmod

import (
	"slices"
	"strings"
)

// SameParameter compares the value asked for ("" for a bool given by its name only)
// with what /sys/module/M/parameters shows. known is false when it can not be
// told: a type with its own way of showing, or an array that shows more
// elements than were asked for.
func SameParameter(typ, wanted, shown string) (same, known bool) {
	shown = strings.TrimSuffix(shown, "\n")
	if len(wanted) >= 2 && wanted[0] == '"' && wanted[len(wanted)-1] == '"' {
		wanted = wanted[1 : len(wanted)-1]
	}
	if elem, ok := strings.CutPrefix(typ, "array of "); ok {
		return sameArray(elem, strings.Split(wanted, ","), strings.Split(shown, ","))
	}
	switch typ {
	case "bool", "invbool", "bint", "bool_enable_only":
		if wanted == "" {
			wanted = "y"
		}
		w, ok := parseBool(wanted)
		s, ok2 := parseBool(shown)
		return ok && ok2 && w == s, ok && ok2
	case "charp", "string":
		return wanted == shown, true
	}
	if _, _, ok := intType(typ); ok {
		w, wNegative, ok := parseInt(wanted)
		s, sNegative, ok2 := parseInt(shown)
		if ok && ok2 {
			return w == s && (wNegative == sNegative || w == 0), true
		}
	}
	return wanted == shown, wanted == shown
}

func sameArray(elem string, wanted, shown []string) (same, known bool) {
	if len(shown) < len(wanted) {
		return false, true
	}
	equal := slices.EqualFunc(wanted, shown[:len(wanted)], func(w, s string) bool {
		same, known := SameParameter(elem, w, s)
		return same && known
	})
	switch {
	case !equal:
		return false, elem != "" && !slices.ContainsFunc(wanted, func(w string) bool { return w == "" })
	case len(shown) > len(wanted):
		return false, false
	}
	return true, true
}
