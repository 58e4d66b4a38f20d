// SPDX-License-Identifier: GPL-2.0
/* kmm_dep: needs a symbol of kmm_base, so it must come after it and keeps it in use. */
#include <linux/init.h>
#include <linux/module.h>

#include "kmm_base.h"

static int seen;
module_param(seen, int, 0444);
MODULE_PARM_DESC(seen, "what kmm_base_hello returned");

static int __init kmm_dep_init(void)
{
	seen = kmm_base_hello("kmm_dep");
	return 0;
}

static void __exit kmm_dep_exit(void)
{
}

module_init(kmm_dep_init);
module_exit(kmm_dep_exit);
MODULE_DESCRIPTION("kmmd test module: depends on kmm_base");
MODULE_LICENSE("GPL");
