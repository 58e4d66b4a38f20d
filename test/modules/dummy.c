// SPDX-License-Identifier: GPL-2.0
/*
 * dummy: an out-of-tree driver to put in the place of the kernel's own drivers/net/dummy.c. Same name, same
 * rtnl kind, same parameter numdummies; parameter "build" tells which of the two (and which variant) runs.
 *
 * variants/<name>/ builds it again with
 *   KMM_BUILD           another value of "build"
 *   KMM_INIT_FAILS      init returns -EIO
 *   KMM_UNKNOWN_SYMBOL  a call of a function that does not exist
 */
#include <linux/errno.h>
#include <linux/etherdevice.h>
#include <linux/init.h>
#include <linux/module.h>
#include <linux/netdevice.h>
#include <linux/rtnetlink.h>
#include <net/rtnetlink.h>

#ifndef KMM_BUILD
#define KMM_BUILD "out-of-tree"
#endif

static int numdummies = 1;
module_param(numdummies, int, 0444);
MODULE_PARM_DESC(numdummies, "number of interfaces made at load");

static char *build = KMM_BUILD;
module_param(build, charp, 0444);
MODULE_PARM_DESC(build, "which build this is");

#ifdef KMM_UNKNOWN_SYMBOL
int kmm_no_such_symbol(void);
#endif

static netdev_tx_t dummy_xmit(struct sk_buff *skb, struct net_device *dev)
{
	dev->stats.tx_packets++;
	dev->stats.tx_bytes += skb->len;
	dev_kfree_skb(skb);
	return NETDEV_TX_OK;
}

static const struct net_device_ops dummy_netdev_ops = {
	.ndo_start_xmit = dummy_xmit,
	.ndo_validate_addr = eth_validate_addr,
	.ndo_set_mac_address = eth_mac_addr,
};

static void dummy_setup(struct net_device *dev)
{
	ether_setup(dev);
	dev->netdev_ops = &dummy_netdev_ops;
	dev->needs_free_netdev = true;
	dev->flags |= IFF_NOARP;
	dev->flags &= ~IFF_MULTICAST;
	eth_hw_addr_random(dev);
}

static struct rtnl_link_ops dummy_link_ops = {
	.kind = "dummy",
	.setup = dummy_setup,
};

static int __init dummy_add(void)
{
	struct net_device *dev = alloc_netdev(0, "dummy%d", NET_NAME_ENUM, dummy_setup);
	int err;

	if (!dev)
		return -ENOMEM;
	dev->rtnl_link_ops = &dummy_link_ops;
	err = register_netdev(dev);
	if (err)
		free_netdev(dev);
	return err;
}

static int __init dummy_init(void)
{
	int i, err;

#ifdef KMM_UNKNOWN_SYMBOL
	kmm_no_such_symbol();
#endif
#ifdef KMM_INIT_FAILS
	pr_err("dummy: init fails, as it was built to\n");
	return -EIO;
#endif
	err = rtnl_link_register(&dummy_link_ops);
	for (i = 0; !err && i < numdummies; i++) {
		err = dummy_add();
		if (err)
			rtnl_link_unregister(&dummy_link_ops);
	}
	return err;
}

static void __exit dummy_exit(void)
{
	/* Takes the interfaces with it. */
	rtnl_link_unregister(&dummy_link_ops);
}

module_init(dummy_init);
module_exit(dummy_exit);
MODULE_DESCRIPTION("kmmd test module: replaces the in-tree dummy");
MODULE_LICENSE("GPL");
MODULE_VERSION("1.0");
MODULE_ALIAS_RTNL_LINK("dummy");
