// SPDX-License-Identifier: Apache-2.0

//go:build cgo

package confine

// withC says that threads are started by the C library (the race detector's), which makes calls of its own. What ships is
// built without.
const withC = true
