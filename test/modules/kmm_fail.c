// SPDX-License-Identifier: GPL-2.0
/* kmm_fail: a good file whose init says no, after a line in the kernel log that an operator will want to read. */
#include <linux/errno.h>
#include <linux/init.h>
#include <linux/module.h>

static int err = -ENODEV;
module_param(err, int, 0444);
MODULE_PARM_DESC(err, "what init returns, a negative errno");

static int __init kmm_fail_init(void)
{
	if (err)
		pr_err("kmm_fail: no such hardware (%d)\n", err);
	return err;
}

static void __exit kmm_fail_exit(void)
{
}

module_init(kmm_fail_init);
module_exit(kmm_fail_exit);
MODULE_DESCRIPTION("kmmd test module: init fails");
MODULE_LICENSE("GPL");
