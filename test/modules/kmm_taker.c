// SPDX-License-Identifier: GPL-2.0
/* kmm_taker: holds kmm_base without using a symbol of it, as drivers do that take another by try_module_get(). */
#include <linux/init.h>
#include <linux/module.h>

#include "kmm_base.h"

static int __init kmm_taker_init(void)
{
	if (!__symbol_get("kmm_base_hello"))
		return -ENODEV;
	return 0;
}

static void __exit kmm_taker_exit(void)
{
	__symbol_put("kmm_base_hello");
}

module_init(kmm_taker_init);
module_exit(kmm_taker_exit);
MODULE_DESCRIPTION("kmmd test module: takes kmm_base");
MODULE_LICENSE("GPL");
