// SPDX-License-Identifier: Apache-2.0

package kmod

import "strings"

// cmdlineState says which part of "module.parameter=value" is being read.
type cmdlineState int

const (
	inModule cmdlineState = iota
	inParam
	inValue
	inRefuse // up to the next blank nothing counts
)

// parseCmdline takes the options for modules out of a kernel command line (libkmod:
// kmod_config_parse_kcmdline):
//
//	quiet dummy.numdummies=2 modprobe.blacklist=pcspkr,floppy "parport.dyndbg=file x +p"
//
// The kernel itself gives them to builtin modules only.
func (c *Config) parseCmdline(line string) {
	line = cutNUL(line)
	state, quoted, opened := inModule, false, false // opened: by a quote before the module name
	start, param, value := 0, 0, 0
	for i := 0; i <= len(line); i++ {
		end := i == len(line)
		switch {
		case !end && line[i] == '"':
			quoted = !quoted
			if quoted && state == inModule && i == start {
				opened, start = true, i+1
			} else if state != inValue {
				state = inRefuse
			}
		case end || isSpace(line[i]):
			switch {
			case quoted && state == inValue: // part of it; dropped when the line ends here
			case quoted:
				state = inRefuse
			default:
				if state == inParam || state == inValue {
					option := line[param:i]
					if opened && state == inValue {
						option = line[param:value] + `"` + line[value:i]
					}
					c.addCmdline(line[start:param-1], option, line[value:i])
				}
				start, state, opened = i+1, inModule, false
			}
		case line[i] == '.' && state == inModule:
			param, value, state = i+1, i+1, inParam
		case line[i] == '.' && state == inParam:
			state = inRefuse
		case line[i] == '=' && state == inParam:
			value, state = i+1, inValue
		case line[i] == '=' && state == inModule:
			state = inRefuse
		}
	}
}

func (c *Config) addCmdline(module, option, value string) {
	if module == "modprobe" && strings.HasPrefix(option, "blacklist=") {
		c.blacklists = append(c.blacklists, strings.Split(value, ",")...)
		return
	}
	if module, ok := normalizeAlias(module); ok {
		c.options = append(c.options, configLine{module, option})
	}
}

// CmdlineOptions gives the options that a kernel command line has for a module, in
// either spelling: what modprobe passes on to it. The kernel itself uses them for
// what is built in only.
func CmdlineOptions(cmdline, module string) []string {
	var c Config
	c.parseCmdline(cmdline)
	var list []string
	for _, o := range c.options {
		if o.name == Name(module) {
			list = append(list, o.value)
		}
	}
	return list
}
