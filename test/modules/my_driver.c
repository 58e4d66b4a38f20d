// SPDX-License-Identifier: GPL-2.0
/*
 * my_driver: the driver that the pages speak of. It takes a parameter and drives nothing.
 */
#include <linux/init.h>
#include <linux/module.h>

static int debug;
module_param(debug, int, 0444);
MODULE_PARM_DESC(debug, "0 (the default) or 1: say more");

static int __init my_driver_init(void)
{
	if (debug)
		pr_info("my_driver: loaded, debug=%d\n", debug);
	return 0;
}

static void __exit my_driver_exit(void)
{
}

module_init(my_driver_init);
module_exit(my_driver_exit);
MODULE_DESCRIPTION("Test module of kmmd: the one that the pages speak of");
MODULE_LICENSE("GPL");
