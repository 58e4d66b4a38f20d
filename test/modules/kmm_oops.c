// SPDX-License-Identifier: GPL-2.0
/*
 * kmm_oops: init oopses. The kernel kills the thread that called finit_module; the module stays "coming" with a
 * reference for ever and can not be removed before the next boot.
 */
#include <linux/init.h>
#include <linux/module.h>

static int __init kmm_oops_init(void)
{
	int *volatile nowhere = NULL;

	pr_err("kmm_oops: writing to address 0\n");
	*nowhere = 1;
	return 0;
}

static void __exit kmm_oops_exit(void)
{
}

module_init(kmm_oops_init);
module_exit(kmm_oops_exit);
MODULE_DESCRIPTION("kmmd test module: oops in init");
MODULE_LICENSE("GPL");
