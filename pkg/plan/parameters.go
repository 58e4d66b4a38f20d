// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"maps"
	"slices"
	"strings"
)

// currentParameters turns what /sys/module/M/parameters shows into the words
// that load the module again with the same values. lost are the parameters whose
// value is not known or can not be passed on: those that the kernel does not
// show, and those that it would not take back as it shows them. What is not set
// is neither.
func currentParameters(types, shown map[string]string) (out, lost []string) {
	names := slices.AppendSeq(slices.Collect(maps.Keys(types)), maps.Keys(shown))
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		value, visible := shown[name]
		switch {
		case visible && unset(types[name], value):
		case visible && roundTrips(types[name], value):
			out = append(out, name+"="+value)
		default:
			lost = append(lost, name)
		}
	}
	return out, lost
}

// unset reports whether a parameter has no value: a string without one is shown
// as "(null)", each element of an array by itself, an array that nothing was
// given for as nothing.
func unset(typ, value string) bool {
	if value == "" {
		return typ != "charp" && typ != "string"
	}
	return !slices.ContainsFunc(strings.Split(value, ","), func(element string) bool { return element != "(null)" })
}

// roundTrips reports whether the kernel takes a value as it shows it. It does so
// for the types of its own; one with another parser (include/linux/moduleparam.h,
// kernel_param_ops) need not. Among several strings one that is unset would
// become "(null)", and there is no way to pass quotes and line breaks.
func roundTrips(typ, value string) bool {
	elements := strings.Split(value, ",")
	if slices.Contains(elements, "(null)") || strings.ContainsAny(value, "\n\"") {
		return false
	}
	switch strings.TrimPrefix(typ, "array of ") {
	case "byte", "short", "ushort", "int", "uint", "long", "ulong", "ullong", "hexint", "charp", "string", "bool", "invbool":
		return true
	case "bint":
		// Shown as a number, set as a bool by its first character (kernel/params.c, param_ops_bint).
		return !slices.ContainsFunc(elements, func(element string) bool { return element != "0" && element != "1" })
	}
	return false
}
