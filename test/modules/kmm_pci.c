// SPDX-License-Identifier: GPL-2.0
/*
 * kmm_pci: drives the host bridge, which every VM has and no other driver wants, and does nothing with it. Its remove and
 * its probe wait, uninterruptibly and with the device's lock held, for as long as a parameter says.
 */
#include <linux/delay.h>
#include <linux/init.h>
#include <linux/module.h>
#include <linux/pci.h>

static bool hang_remove;
module_param(hang_remove, bool, 0644);
MODULE_PARM_DESC(hang_remove, "remove does not come back while this is set");

static bool hang_probe;
module_param(hang_probe, bool, 0644);
MODULE_PARM_DESC(hang_probe, "probe does not come back while this is set");

static int kmm_pci_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	if (READ_ONCE(hang_probe))
		dev_info(&pdev->dev, "probe hangs\n");
	while (READ_ONCE(hang_probe))
		msleep(20);
	return 0;
}

static void kmm_pci_remove(struct pci_dev *pdev)
{
	if (READ_ONCE(hang_remove))
		dev_info(&pdev->dev, "remove hangs\n");
	while (READ_ONCE(hang_remove))
		msleep(20);
}

/* No MODULE_DEVICE_TABLE: nothing loads it by itself. */
static const struct pci_device_id kmm_pci_ids[] = {
	{ PCI_DEVICE_CLASS(PCI_CLASS_BRIDGE_HOST << 8, ~0) },
	{ }
};

static struct pci_driver kmm_pci_driver = {
	.name = KBUILD_MODNAME,
	.id_table = kmm_pci_ids,
	.probe = kmm_pci_probe,
	.remove = kmm_pci_remove,
};

module_pci_driver(kmm_pci_driver);
MODULE_DESCRIPTION("kmmd test module: a driver that does not come back");
MODULE_LICENSE("GPL");
