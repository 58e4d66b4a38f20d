// SPDX-License-Identifier: Apache-2.0

package images

// Options of a store. The zero value is a store that takes any image.
type Options struct{}
