// SPDX-License-Identifier: Apache-2.0

package kmod

// GPLCompatible tells whether a module with this license= may use symbols that
// are exported to GPL modules only (include/linux/license.h:
// license_is_gpl_compatible). A module without a license is proprietary.
func GPLCompatible(license string) bool {
	switch license {
	case "GPL", "GPL v2", "GPL and additional rights", "Dual BSD/GPL", "Dual MIT/GPL", "Dual MPL/GPL":
		return true
	}
	return false
}
