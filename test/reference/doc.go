// SPDX-License-Identifier: Apache-2.0

// Package reference makes the pages of docs/reference out of the code itself:
// types and their comments, constants, CustomResourceDefinitions, commands and
// their flags. A page says nothing that the code does not, and is the same for the
// same code. What has no comment is an error: users would read an empty cell.
//
// Pages of what may be imported are written by test/reference/generate. Those of
// the programs, which may not, are written by a test of each (TestReference).
package reference

//go:generate go run ./generate ../..
