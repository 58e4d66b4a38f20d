// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"slices"
	"strings"

	"github.com/kmm-node/kmmd/pkg/kmod"
)

// unusedOptions warns of options for a module on the kernel's command line:
// modprobe passes them on, kmmd takes those of the document only
// (docs/decisions/001). Those that the document has too are no news.
func (a *Agent) unusedOptions(r *resolution, info *kmod.Info) []string {
	options := kmod.CmdlineOptions(a.cfg.Kernel.Cmdline(), info.Name)
	if isTarget(r.choice, info) {
		options = slices.DeleteFunc(options, func(o string) bool { return slices.Contains(r.choice.Parameters, o) })
	}
	if len(options) == 0 {
		return nil
	}
	return []string{fmt.Sprintf("the kernel's command line has options for %s (%s), which only modprobe would use: put them under modprobe.parameters of the Module that loads it",
		info.Name, strings.Join(options, " "))}
}
