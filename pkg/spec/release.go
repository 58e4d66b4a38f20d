// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"regexp"
	"slices"
	"strings"
)

// Release is a kernel release as `uname -r` prints it, such as
// "6.1.0-56-cloud-amd64" or "6.1.0+".
type Release string

var unfitForTag = regexp.MustCompile(`[^A-Za-z0-9._-]`)

// Trimmed is the release without one trailing "+" (which the kernel's
// scripts/setlocalversion puts there for a tree with local changes). It is what
// mappings are matched against.
func (r Release) Trimmed() string { return strings.TrimSuffix(string(r), "+") }

// Normalized is the trimmed release with every character that an image tag can
// not hold replaced by "_".
func (r Release) Normalized() string { return unfitForTag.ReplaceAllString(r.Trimmed(), "_") }

// Directories are the names that lib/modules/<release> may have in an image,
// best first: raw, trimmed, normalized, each once.
func (r Release) Directories() []string {
	return slices.Compact([]string{string(r), r.Trimmed(), r.Normalized()})
}

// variables are what a template may use, as NAME=value pairs. As with KMM all are of
// the normalized release: "6.12.38+deb13-amd64" has the third part "38_deb13".
func (r Release) variables(name, namespace string) []string {
	n := r.Normalized()
	parts := strings.FieldsFunc(n, func(c rune) bool { return c == '.' || c == '-' })
	for len(parts) < 3 {
		parts = append(parts, "")
	}
	return []string{
		"KERNEL_FULL_VERSION=" + n,
		"KERNEL_VERSION=" + n,
		"KERNEL_XYZ=" + strings.TrimRight(strings.Join(parts[:3], "."), "."),
		"KERNEL_X=" + parts[0],
		"KERNEL_Y=" + parts[1],
		"KERNEL_Z=" + parts[2],
		"MOD_NAME=" + name,
		"MOD_NAMESPACE=" + namespace,
	}
}
