// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"maps"
	"slices"
	"strings"
)

// currentParameters turns what /sys/module/M/parameters shows into the words
// that load the module again with the same values. Left out is what the kernel
// would not take back: an unset string (shown as "(null)"), also as an element
// of an array, which would be set to that very word, and values of types
// with a parser of their own, whose output need not be valid input
// (include/linux/moduleparam.h, kernel_param_ops). unseen are the parameters
// that the kernel does not show at all.
func currentParameters(types, shown map[string]string) (out, unseen []string) {
	for _, name := range slices.Sorted(maps.Keys(types)) {
		if _, visible := shown[name]; !visible {
			unseen = append(unseen, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(shown)) {
		value := shown[name]
		if slices.Contains(strings.Split(value, ","), "(null)") || strings.ContainsAny(value, "\n\"") || !roundTrips(types[name]) {
			continue
		}
		if value == "" && types[name] != "charp" && types[name] != "string" {
			continue
		}
		out = append(out, name+"="+value)
	}
	return out, unseen
}

// roundTrips reports whether a parmtype is one of the kernel's own, whose
// printed value is read back as the same.
func roundTrips(typ string) bool {
	switch strings.TrimPrefix(typ, "array of ") {
	case "byte", "short", "ushort", "int", "uint", "long", "ulong", "ullong", "hexint", "charp", "string", "bool", "invbool":
		return true
	}
	return false
}
