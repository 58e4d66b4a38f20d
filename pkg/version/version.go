// SPDX-License-Identifier: Apache-2.0

// Package version says what a program was built from.
package version

import "runtime/debug"

// String is the version of the main module, with the commit where that is all
// that is known; "unknown" in a binary without build information.
func String() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	v := info.Main.Version
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && v == "(devel)" {
			v += " " + s.Value
		}
	}
	return v
}
