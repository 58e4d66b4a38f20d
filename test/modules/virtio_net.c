// SPDX-License-Identifier: GPL-2.0
/*
 * virtio_net: the kernel's own drivers/net/virtio_net.c, built out of tree, to put in the place of the in-tree driver
 * under the interface of the VM. Its source is not ours: test/vm/setup fetches the one of the running kernel and ./build
 * puts it at source/virtio_net.c. All that is added: parameter "build" tells which of the two (and which variant) runs.
 *
 * variants/<name>/ builds it again with
 *   KMM_BUILD        another value of "build"
 *   KMM_INIT_FAILS   init returns -EIO before anything is registered
 *   KMM_INIT_HANGS   init first sleeps for "secs" seconds, uninterruptibly; then all is well
 *   KMM_NO_DEVICE    init succeeds, but the driver takes no device
 */
#include <linux/delay.h>
#include <linux/init.h>
#include <linux/module.h>
#include <linux/virtio.h>

/* The init of the original gets a name that ours can call. */
#pragma push_macro("module_init")
#undef module_init
#define module_init(fn) static int __init __maybe_unused in_tree_init(void) { return fn(); }
#include "source/virtio_net.c"
#pragma pop_macro("module_init")

#ifndef KMM_BUILD
#define KMM_BUILD "out-of-tree"
#endif

static char *build = KMM_BUILD;
module_param(build, charp, 0444);
MODULE_PARM_DESC(build, "which build this is");

#ifdef KMM_INIT_HANGS
static unsigned int secs = 3600;
module_param(secs, uint, 0444);
MODULE_PARM_DESC(secs, "how long init sleeps");
#endif

#ifdef KMM_NO_DEVICE
static int no_device_probe(struct virtio_device *vdev)
{
	return -ENODEV;
}
#endif

static int __init virtio_net_init(void)
{
#ifdef KMM_INIT_FAILS
	pr_err("virtio_net: init fails, as it was built to\n");
	return -EIO;
#endif
#ifdef KMM_INIT_HANGS
	pr_info("virtio_net: sleeping for %u s\n", secs);
	msleep(secs * 1000);
	pr_info("virtio_net: awake\n");
#endif
#ifdef KMM_NO_DEVICE
	virtio_net_driver.probe = no_device_probe;
#endif
	return in_tree_init();
}

module_init(virtio_net_init);
