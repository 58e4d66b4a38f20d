// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"os"
	"strings"
)

// State is an answer that may be unknown.
type State string

// The answers.
const (
	Unknown State = ""
	Yes     State = "yes"
	No      State = "no"
)

// Security is what decides whether the kernel takes a module at all.
type Security struct {
	Signatures      State    // CONFIG_MODULE_SIG: they are checked at all
	SigEnforce      State    // module.sig_enforce or CONFIG_MODULE_SIG_FORCE: no unsigned module. No also without CONFIG_MODULE_SIG
	Lockdown        string   // "none", "integrity", "confidentiality" (kernel_lockdown(7)); "" unknown: no such thing, or securityfs is not mounted
	ModulesDisabled State    // kernel.modules_disabled: no module can be loaded or unloaded until the next boot
	SecureBoot      State    // what UEFI says; No also without UEFI
	Blacklist       []string // module_blacklist=: kernel names of modules that are never loaded
	Keyrings        []Keyring
	Certificates    []Certificate // of db and MOK
}

// Security reads it. Nothing of it needs a privilege but to see the kernel's keyrings, which takes uid 0 of the initial
// user namespace.
func (h *Host) Security() Security {
	s := h.SecurityWithoutKeys()
	s.Keyrings, s.Certificates = h.keyrings(), h.certificates()
	return s
}

// SecurityWithoutKeys is Security for modules without a signature, to which keys mean nothing.
func (h *Host) SecurityWithoutKeys() Security {
	s := Security{
		SigEnforce:      h.flag("sys/module/module/parameters/sig_enforce"),
		ModulesDisabled: h.flag("proc/sys/kernel/modules_disabled"),
		SecureBoot:      h.secureBoot(),
		Blacklist:       h.blacklist(),
	}
	if s.SigEnforce != Unknown {
		s.Signatures = Yes
	} else if v, known := h.Config("MODULE_SIG"); known && v == "n" {
		s.Signatures, s.SigEnforce = No, No
	}
	if text, err := h.readLine("sys/kernel/security/lockdown"); err == nil {
		s.Lockdown = chosen(text)
	}
	return s
}

// Algorithms lists what the kernel's crypto has at hand, by name: "sha256", "rsa". It may load modules for more when it is
// asked. Nil when it can not be known. Lines are those of crypto/proc.c:
//
//	name         : sha256
//	driver       : sha256-generic
func (h *Host) Algorithms() map[string]bool {
	text, err := os.ReadFile(h.path("proc/crypto"))
	if err != nil {
		return nil
	}
	list := make(map[string]bool)
	for line := range strings.Lines(string(text)) {
		key, value, ok := strings.Cut(line, ":")
		if ok && strings.TrimSpace(key) == "name" {
			list[strings.TrimSpace(value)] = true
		}
	}
	return list
}

// flag reads a file with Y, N, 1 or 0.
func (h *Host) flag(name string) State {
	text, err := h.readLine(name)
	if err != nil {
		return Unknown
	}
	switch text {
	case "Y", "1":
		return Yes
	case "N", "0":
		return No
	}
	return Unknown
}

// chosen gives the word in brackets of "none [integrity] confidentiality" (security/lockdown/lockdown.c).
func chosen(text string) string {
	_, rest, _ := strings.Cut(text, "[")
	word, _, ok := strings.Cut(rest, "]")
	if !ok {
		return ""
	}
	return word
}

// blacklist reads module_blacklist=, a core parameter (kernel/module/main.c): root can read what it is, anybody what the
// command line says, of which the last counts.
func (h *Host) blacklist() []string {
	list, err := h.readLine("sys/module/kernel/parameters/module_blacklist")
	if err != nil {
		for word := range strings.FieldsSeq(h.cmdline) {
			key, value, ok := strings.Cut(strings.ReplaceAll(word, `"`, ""), "=")
			if key == "--" {
				break // the rest is for init
			}
			if ok && strings.ReplaceAll(key, "-", "_") == "module_blacklist" {
				list = value
			}
		}
	}
	if list == "" || list == "(null)" { // param_get_charp of one that was not given
		return nil
	}
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' })
}

// secureBoot reads the UEFI variables (include/linux/efi.h, efi_get_secureboot_mode): four bytes of attributes, then 1
// for on; a machine in set-up mode enforces nothing. shim can turn it off for what it starts (MokSBStateRT).
func (h *Host) secureBoot() State {
	if _, err := os.Stat(h.path("sys/firmware/efi")); os.IsNotExist(err) {
		return No
	}
	on, ok := h.efiByte("SecureBoot-" + efiGlobal)
	if !ok {
		return Unknown
	}
	setup, _ := h.efiByte("SetupMode-" + efiGlobal)
	if on != 1 || setup == 1 {
		return No
	}
	if insecure, ok := h.efiByte("MokSBStateRT-" + efiShim); ok && insecure == 1 {
		return No
	}
	return Yes
}
