/* SPDX-License-Identifier: GPL-2.0 */
#ifndef KMM_BASE_H
#define KMM_BASE_H

/* Exported by kmm_base: says hello in the kernel log, returns the value of its parameter "level". */
int kmm_base_hello(const char *who);

#endif
