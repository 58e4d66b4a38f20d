// SPDX-License-Identifier: Apache-2.0

package monitoring

//go:generate go run ./generate ../..
