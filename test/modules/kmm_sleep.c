// SPDX-License-Identifier: GPL-2.0
/*
 * kmm_sleep: init takes its time, uninterruptibly: the caller of finit_module can not be killed meanwhile, and the
 * module is "coming" in /sys/module/kmm_sleep/initstate.
 */
#include <linux/delay.h>
#include <linux/init.h>
#include <linux/module.h>

static unsigned int secs = 5;
module_param(secs, uint, 0444);
MODULE_PARM_DESC(secs, "how long init sleeps");

static int __init kmm_sleep_init(void)
{
	pr_info("kmm_sleep: sleeping for %u s\n", secs);
	msleep(secs * 1000);
	pr_info("kmm_sleep: awake\n");
	return 0;
}

static void __exit kmm_sleep_exit(void)
{
}

module_init(kmm_sleep_init);
module_exit(kmm_sleep_exit);
MODULE_DESCRIPTION("kmmd test module: slow init");
MODULE_LICENSE("GPL");
