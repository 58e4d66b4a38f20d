// SPDX-License-Identifier: GPL-2.0
/* kmm_pci_old: drives what kmm_pci drives, by another name. */
#include "kmm_pci.c"
