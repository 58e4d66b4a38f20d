// SPDX-License-Identifier: Apache-2.0

// Package markdown knows what GitHub makes of a page, as far as links need it.
package markdown

import (
	"regexp"
	"strings"
)

var notInAnchor = regexp.MustCompile(`[^\p{L}\p{N} _-]`)

// Anchor is the name by which GitHub links to a heading, without its "#".
func Anchor(heading string) string {
	return strings.ReplaceAll(notInAnchor.ReplaceAllString(strings.ToLower(strings.TrimSpace(heading)), ""), " ", "-")
}
