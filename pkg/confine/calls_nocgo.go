// SPDX-License-Identifier: Apache-2.0

//go:build !cgo

package confine

// libraryMay is what a C library calls: there is none.
func libraryMay() []rule { return nil }
