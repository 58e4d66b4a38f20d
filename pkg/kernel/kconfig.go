// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"bufio"
	"compress/gzip"
	"io"
	"os"
	"strings"
)

// Config tells how the running kernel was configured, if that can be known: "y", "m", "n" (also for an option the
// configuration does not mention) or what else stands there. It looks into /proc/config.gz (CONFIG_IKCONFIG_PROC), then
// into what distributions install: /boot/config-RELEASE, /lib/modules/RELEASE/config and .../build/.config. The option is
// without its "CONFIG_".
func (h *Host) Config(option string) (value string, known bool) {
	r := h.release
	for _, name := range [...]string{"proc/config.gz", "boot/config-" + r, "lib/modules/" + r + "/config", "lib/modules/" + r + "/build/.config"} {
		f, err := os.Open(h.path(name))
		if err != nil {
			continue
		}
		value, known = findOption(f, strings.HasSuffix(name, ".gz"), option)
		_ = f.Close()
		if known {
			return value, true
		}
	}
	return "", false
}

// findOption reads lines
//
//	CONFIG_MODVERSIONS=y
//	# CONFIG_MODULE_SIG_FORCE is not set
//
// and knows nothing of a file that has none.
func findOption(r io.Reader, packed bool, option string) (value string, known bool) {
	const maxConfig = 4 << 20
	if packed {
		z, err := gzip.NewReader(r)
		if err != nil {
			return "", false
		}
		defer z.Close()
		r = z
	}
	lines := bufio.NewScanner(io.LimitReader(r, maxConfig))
	for lines.Scan() {
		line := lines.Text()
		if rest, ok := strings.CutPrefix(line, "CONFIG_"); ok {
			known = true
			if value, ok := strings.CutPrefix(rest, option+"="); ok {
				return strings.Trim(value, `"`), true
			}
		}
	}
	if lines.Err() != nil || !known {
		return "", false
	}
	return "n", true
}
