// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// maxNameLength is what "namespace.name" may have together, so that the node
// labels made of it fit in 63 characters.
const maxNameLength = 41

const containerField = "spec.moduleLoader.container"

const (
	digits    = "0123456789"
	lowerCase = "abcdefghijklmnopqrstuvwxyz"
	upperCase = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
)

var pullPolicies = []string{"", "Always", "IfNotPresent", "Never"}

// madeOf reports whether a text has these characters only.
func madeOf(s, characters string) bool { return strings.Trim(s, characters) == "" }

func isObjectName(s string) bool {
	return s != "" && madeOf(s, lowerCase+digits+"-.") && s == strings.Trim(s, "-.")
}

// isModuleName: a name has 55 bytes at most (MODULE_NAME_LEN is 56 with its NUL on 64 bit, include/linux/moduleparam.h).
func isModuleName(s string) bool {
	return s != "" && len(s) <= 55 && madeOf(s, lowerCase+upperCase+digits+"_-")
}

// validate finds everything in a well-formed document that can not be obeyed.
func (m *Module) validate() findings {
	var f findings
	if m.APIVersion != APIVersion {
		f.add("apiVersion", "%q is not understood, this is about %s", m.APIVersion, APIVersion)
	}
	switch name := m.Metadata.Name; {
	case name == "":
		f.add("metadata.name", "is required")
	case !isObjectName(name):
		f.add("metadata.name", "%q: lower-case letters, digits, '-' and '.' only, a letter or digit first and last", name)
	}
	if n := len(m.Metadata.Name) + len(m.Metadata.Namespace); n > maxNameLength {
		f.add("metadata.name", "name and namespace have %d characters together, more than the %d that leave room in a node label", n, maxNameLength)
	}
	if m.Spec.ModuleLoader == nil {
		return f
	}
	c := &m.Spec.ModuleLoader.Container
	c.Modprobe.validate(&f)
	m.validateContainer(&f)
	for i := range c.KernelMappings {
		m.validateMapping(i, &f)
	}
	validateRemovalSpelling(c, &f)
	m.validateInUse(&f)
	return f
}

func (m *Module) validateContainer(f *findings) {
	c := &m.Spec.ModuleLoader.Container
	if len(c.KernelMappings) == 0 {
		f.add(containerField+".kernelMappings", "needs at least one mapping: without one no kernel gets the module")
	}
	if !slices.Contains(pullPolicies, c.ImagePullPolicy) {
		f.add(containerField+".imagePullPolicy", "%q is none of Always, IfNotPresent, Never", c.ImagePullPolicy)
	}
	m.validateImage(containerField+".containerImage", c.ContainerImage, f)
	validateNames(containerField+".inTreeModulesToRemove", c.InTreeModulesToRemove, f)
	if c.InTreeModuleToRemove != "" {
		validateName(containerField+".inTreeModuleToRemove", c.InTreeModuleToRemove, f)
	}
}

func (m *Module) validateMapping(i int, f *findings) {
	c := &m.Spec.ModuleLoader.Container
	k := &c.KernelMappings[i]
	at := fmt.Sprintf("%s.kernelMappings[%d]", containerField, i)
	switch {
	case k.Literal != "" && k.Regexp != "":
		f.add(at, "has both literal and regexp: it may have only one")
	case k.Literal == "" && k.Regexp == "":
		f.add(at, "needs a literal or a regexp")
	case k.Regexp != "":
		if _, err := regexp.Compile(k.Regexp); err != nil {
			f.add(at+".regexp", "%v", err)
		}
	}
	if k.ContainerImage == "" && c.ContainerImage == "" {
		f.add(at+".containerImage", "is required, here or in the container")
	}
	m.validateImage(at+".containerImage", k.ContainerImage, f)
	validateNames(at+".inTreeModulesToRemove", k.InTreeModulesToRemove, f)
	if k.InTreeModuleToRemove != "" {
		validateName(at+".inTreeModuleToRemove", k.InTreeModuleToRemove, f)
	}
}

// validateImage expands the template for a made-up kernel: a reference that
// lacks its tag there lacks it everywhere, except where a variable (possibly
// one we do not know) could have brought it.
func (m *Module) validateImage(field, template string, f *findings) {
	if template == "" {
		return
	}
	image, _, err := Expand(template, "1.2.3-4.generic", m.Metadata.Name, m.Metadata.Namespace)
	switch {
	case hasUser(image), hasUser(template): // which is not repeated here
		f.add(field, "names a user or a password: credentials for a registry belong in a pull secret, or in a file of the node")
	case err != nil:
		f.add(field, "%v", err)
	case !hasTag(image):
		f.add(field, "%q has neither a tag (:TAG) nor a digest (@sha256:…) after its last \"/\"", template)
	}
}

// validateRemovalSpelling refuses the singular and the plural in one Module.
func validateRemovalSpelling(c *Container, f *findings) {
	plural := c.InTreeModulesToRemove != nil
	singular := ""
	if c.InTreeModuleToRemove != "" {
		singular = containerField + ".inTreeModuleToRemove"
	}
	for i, k := range c.KernelMappings {
		plural = plural || k.InTreeModulesToRemove != nil
		if k.InTreeModuleToRemove != "" && singular == "" {
			singular = fmt.Sprintf("%s.kernelMappings[%d].inTreeModuleToRemove", containerField, i)
		}
	}
	if plural && singular != "" {
		f.add(singular, "the Module uses inTreeModulesToRemove too: use the plural everywhere")
	}
}

func validateName(field, name string, f *findings) {
	if !isModuleName(name) {
		f.add(field, "%q is not a module name: give the name as lsmod shows it, without directory and .ko", name)
	}
}

func validateNames(field string, names []string, f *findings) {
	for i, name := range names {
		validateName(fmt.Sprintf("%s[%d]", field, i), name, f)
	}
}

func (p *Modprobe) validate(f *findings) {
	const at = containerField + ".modprobe"
	raw := p.RawArgs != nil
	switch {
	case raw && p.ModuleName != "":
		f.add(at+".moduleName", "may not stand beside rawArgs, which names the module itself")
	case raw && (p.Args != nil || len(p.Parameters) > 0 || p.dir() != DefaultDirName || len(p.ModulesLoadingOrder) > 0):
		f.add(at+".rawArgs", "may not stand beside args, parameters, dirName or modulesLoadingOrder")
	case !raw && p.ModuleName == "":
		f.add(at+".moduleName", "is required")
	case !raw:
		validateName(at+".moduleName", p.ModuleName, f)
	}
	for _, d := range []struct{ field, dir string }{{".dirName", p.DirName}, {".firmwarePath", p.FirmwarePath}} {
		if slices.Contains(strings.Split(d.dir, "/"), "..") {
			f.add(at+d.field, "%q: no \"..\" in a path", d.dir)
		}
	}
	for i, word := range p.Parameters {
		if word == "" || strings.ContainsAny(word, "\x00\n\r\t") {
			f.add(fmt.Sprintf("%s.parameters[%d]", at, i), "%q can not be handed to a kernel module", word)
		}
	}
	p.validateOrder(at+".modulesLoadingOrder", f)
	p.validateWords(at, f)
}

func (p *Modprobe) validateWords(at string, f *findings) {
	if raw := p.RawArgs; raw != nil {
		if w, err := p.loadWords(); err != nil {
			f.add(at+".rawArgs.load", "%v", err)
		} else {
			validateName(at+".rawArgs.load", w.name, f)
		}
		validateUnload(at+".rawArgs.unload", raw.Unload, true, f)
	}
	if p.Args == nil {
		return
	}
	if _, err := parseWords(p.Args.Load, false); err != nil {
		f.add(at+".args.load", "%v", err)
	}
	validateUnload(at+".args.unload", p.Args.Unload, false, f)
}

func validateUnload(field string, args []string, raw bool, f *findings) {
	if w, err := parseWords(args, raw); err != nil {
		f.add(field, "%v", err)
	} else if w.flags != (Flags{}) {
		f.add(field, "a forced unload is never done: it leaves a kernel nobody can trust")
	}
}

func (p *Modprobe) validateOrder(at string, f *findings) {
	order := p.ModulesLoadingOrder
	if len(order) == 0 {
		return
	}
	validateNames(at, order, f)
	if len(order) < 2 {
		f.add(at, "needs at least two modules")
	}
	if canonical(order[0]) != canonical(p.ModuleName) {
		f.add(at+"[0]", "must be moduleName %q: the list goes from the top of the stack down", p.ModuleName)
	}
	seen := map[string]bool{}
	for i, name := range order {
		if seen[canonical(name)] {
			f.add(fmt.Sprintf("%s[%d]", at, i), "%q stands there twice", name)
		}
		seen[canonical(name)] = true
	}
}
