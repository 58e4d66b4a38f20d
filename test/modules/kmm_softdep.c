// SPDX-License-Identifier: GPL-2.0
/* kmm_softdep: wants kmm_base before it, and after it a module that does not exist; neither is a must. */
#include <linux/init.h>
#include <linux/module.h>

static int __init kmm_softdep_init(void)
{
	return 0;
}

static void __exit kmm_softdep_exit(void)
{
}

module_init(kmm_softdep_init);
module_exit(kmm_softdep_exit);
MODULE_DESCRIPTION("kmmd test module: soft dependencies");
MODULE_LICENSE("GPL");
MODULE_SOFTDEP("pre: kmm_base post: nosuchmodule");
