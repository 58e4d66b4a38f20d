// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
	"github.com/kmm-node/kmmd/pkg/spec"
)

// What a status may have at most, in bytes: etcd takes 1.5 MiB for the whole
// object, and everybody who watches gets it.
const (
	maxStatus  = 512 << 10
	maxMessage = 4 << 10
	maxLine    = 1 << 10 // a warning, or what is wrong with a document
	maxLines   = 16
)

// statusOf is a status in the words of the API. If all together is too much,
// messages are cut shorter.
func statusOf(s spec.Status) v1beta1.NodeModulesConfigStatus {
	out := convert(s, maxMessage)
	for limit := maxMessage / 2; limit >= 64 && len(marshal(out)) > maxStatus; limit /= 2 {
		out = convert(s, limit)
	}
	return out
}

func convert(s spec.Status, limit int) v1beta1.NodeModulesConfigStatus {
	modules := map[string]v1beta1.NodeModuleStatus{}
	// An order that is refused beside a document of that name: the cluster is told
	// about its order.
	for _, list := range []struct {
		modules []spec.ModuleStatus
		state   string
	}{{s.Leaving, v1beta1.StateLeaving}, {s.Modules, ""}, {s.Refused, ""}} {
		for i := range list.modules {
			m := moduleStatus(&list.modules[i], limit)
			if list.state != "" {
				m.State = list.state
			}
			modules[list.modules[i].Key()] = m
		}
	}
	out := v1beta1.NodeModulesConfigStatus{
		ObservedGeneration: s.ObservedGeneration, BootID: s.BootID, KernelRelease: s.KernelRelease,
		SecureBoot: s.SecureBoot, Lockdown: s.Lockdown, SignatureEnforced: s.SignatureEnforced,
		AgentVersion: s.Version, Invalid: lines(s.Invalid, limit),
	}
	for _, key := range slices.Sorted(maps.Keys(modules)) {
		out.Modules = append(out.Modules, modules[key])
	}
	out.Summary = summary(out.Modules)
	return out
}

func moduleStatus(m *spec.ModuleStatus, limit int) v1beta1.NodeModuleStatus {
	out := v1beta1.NodeModuleStatus{
		Namespace: m.Namespace, Name: m.Name, Revision: m.Revision, State: string(m.State), Reason: string(m.Reason),
		Message: cut(m.Message, limit), RolledBack: m.RolledBack, Image: m.Image, Digest: m.Digest, Version: m.Version,
		Warnings: lines(m.Warnings, limit), Since: metav1.NewTime(m.Since),
	}
	if m.RetryAt != nil {
		at := metav1.NewTime(*m.RetryAt)
		out.RetryAt = &at
	}
	for _, k := range m.Kernel {
		out.KernelModules = append(out.KernelModules, v1beta1.KernelModule{Name: k.Name, BuildID: k.BuildID, Parameters: lines(k.Parameters, limit)})
	}
	return out
}

// summary counts states, as in "2 loaded, 1 failed".
func summary(modules []v1beta1.NodeModuleStatus) string {
	count := map[string]int{}
	for i := range modules {
		count[modules[i].State]++
	}
	var words []string
	for _, state := range []string{v1beta1.StateLoaded, v1beta1.StatePending, v1beta1.StateBuilding, v1beta1.StateFailed, v1beta1.StateLeaving} {
		if n := count[state]; n > 0 {
			words = append(words, fmt.Sprintf("%d %s", n, strings.ToLower(state)))
		}
	}
	if len(words) == 0 {
		return "no modules"
	}
	return strings.Join(words, ", ")
}

func lines(list []string, limit int) []string {
	var out []string
	for i, l := range list {
		if i == maxLines-1 && len(list) > maxLines {
			return append(out, fmt.Sprintf("… and %d more", len(list)-i))
		}
		out = append(out, cut(l, min(limit, maxLine)))
	}
	return out
}

// cut keeps limit bytes at most, and whole characters.
func cut(s string, limit int) string {
	s = strings.ToValidUTF8(s, "?")
	if len(s) <= limit {
		return s
	}
	const more = "…"
	end := limit - len(more)
	for end > 0 && !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + more
}

// same compares two statuses. When a failure is tried again is left out: it
// changes with each try, and nothing else does. With substance, so are messages.
func same(a, b v1beta1.NodeModulesConfigStatus, substance bool) bool {
	return string(marshal(plain(a, substance))) == string(marshal(plain(b, substance)))
}

func plain(s v1beta1.NodeModulesConfigStatus, substance bool) v1beta1.NodeModulesConfigStatus {
	s.Modules = slices.Clone(s.Modules)
	for i := range s.Modules {
		m := &s.Modules[i]
		if m.RetryAt != nil {
			m.RetryAt = &metav1.Time{}
		}
		if substance {
			m.Message, m.Warnings = "", nil
		}
	}
	return s
}

// marshal can not fail for these types.
func marshal(s v1beta1.NodeModulesConfigStatus) []byte {
	data, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	return data
}
