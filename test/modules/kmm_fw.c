// SPDX-License-Identifier: GPL-2.0
/*
 * kmm_fw: asks for the firmware file kmm/fw.bin while it is initialised, as most drivers do when their device is
 * already there. Parameter "got" then shows what came: "<length>:<first bytes as text>".
 */
#include <linux/ctype.h>
#include <linux/firmware.h>
#include <linux/init.h>
#include <linux/module.h>
#include <linux/platform_device.h>

#define KMM_FW_NAME "kmm/fw.bin"

static bool need = true;
module_param(need, bool, 0444);
MODULE_PARM_DESC(need, "refuse to load without the firmware (the default)");

static char shown[64] = "";
static char *got = shown;
module_param(got, charp, 0444);
MODULE_PARM_DESC(got, "result, not to be set: length and first bytes of the firmware, empty without one");

static struct platform_device *pdev;

static void show(const struct firmware *fw)
{
	int n = scnprintf(shown, sizeof(shown), "%zu:", fw->size);
	size_t i;

	for (i = 0; i < fw->size && i < 32; i++)
		shown[n++] = isprint(fw->data[i]) ? fw->data[i] : '.';
	shown[n] = '\0';
	got = shown;
}

static int __init kmm_fw_init(void)
{
	const struct firmware *fw;
	int err;

	pdev = platform_device_register_simple("kmm_fw", PLATFORM_DEVID_NONE, NULL, 0);
	if (IS_ERR(pdev))
		return PTR_ERR(pdev);
	err = request_firmware(&fw, KMM_FW_NAME, &pdev->dev);
	if (!err) {
		show(fw);
		release_firmware(fw);
		return 0;
	}
	if (!need)
		return 0;
	platform_device_unregister(pdev);
	return err;
}

static void __exit kmm_fw_exit(void)
{
	platform_device_unregister(pdev);
}

module_init(kmm_fw_init);
module_exit(kmm_fw_exit);
MODULE_DESCRIPTION("kmmd test module: wants firmware");
MODULE_LICENSE("GPL");
MODULE_FIRMWARE(KMM_FW_NAME);
