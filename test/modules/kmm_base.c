// SPDX-License-Identifier: GPL-2.0
/*
 * kmm_base: the plain case. Has a parameter of every type the loader must know, some that sysfs hides; exports a
 * symbol (kmm_dep uses it); and /dev/kmm_base, which holds a reference while it is open ("module is in use").
 */
#include <linux/fs.h>
#include <linux/init.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/moduleparam.h>

#include "kmm_base.h"

static int level = 1;
module_param(level, int, 0444);
MODULE_PARM_DESC(level, "an int; kmm_base_hello returns it");

static unsigned int count = 2;
module_param(count, uint, 0444);
MODULE_PARM_DESC(count, "an unsigned int");

static bool flag;
module_param(flag, bool, 0644);
MODULE_PARM_DESC(flag, "a bool; can be changed at run time");

static bool negated;
module_param(negated, invbool, 0444);
MODULE_PARM_DESC(negated, "an inverted bool");

static char *label = "none";
module_param(label, charp, 0444);
MODULE_PARM_DESC(label, "a string");

static int list[4] = { 1, 2, 3, 4 };
static int list_len;
module_param_array(list, int, &list_len, 0444);
MODULE_PARM_DESC(list, "an array of at most four int");

static unsigned long big = 4294967296UL;
module_param(big, ulong, 0444);
MODULE_PARM_DESC(big, "an unsigned long");

static unsigned char octet = 7;
module_param(octet, byte, 0444);
MODULE_PARM_DESC(octet, "a byte");

static short small = -3;
module_param(small, short, 0444);
MODULE_PARM_DESC(small, "a short");

static char fixed[8] = "fixed";
module_param_string(fixed, fixed, sizeof(fixed), 0444);
MODULE_PARM_DESC(fixed, "a string of at most seven bytes");

static int secret;
module_param(secret, int, 0600);
MODULE_PARM_DESC(secret, "an int that only root can read");

static int hidden;
module_param(hidden, int, 0);
MODULE_PARM_DESC(hidden, "an int that sysfs does not show");

static int switched;
module_param(switched, bint, 0444);
MODULE_PARM_DESC(switched, "an int that is set as a bool");

/* No description on purpose: parmtype= is there without parm=. */
static int bare;
module_param(bare, int, 0444);

int kmm_base_hello(const char *who)
{
	pr_info("kmm_base: hello %s\n", who);
	return level;
}
EXPORT_SYMBOL_GPL(kmm_base_hello);

/* .owner is what makes an open file count as a use of the module. */
static const struct file_operations kmm_base_fops = {
	.owner = THIS_MODULE,
	.open = nonseekable_open,
};

static struct miscdevice kmm_base_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "kmm_base",
	.fops = &kmm_base_fops,
	.mode = 0600,
};

static int __init kmm_base_init(void)
{
	pr_info("kmm_base: level=%d hidden=%d\n", level, hidden);
	return misc_register(&kmm_base_device);
}

static void __exit kmm_base_exit(void)
{
	misc_deregister(&kmm_base_device);
}

module_init(kmm_base_init);
module_exit(kmm_base_exit);
MODULE_DESCRIPTION("kmmd test module: parameters, a symbol, a device");
MODULE_LICENSE("GPL");
MODULE_VERSION("1.0");
