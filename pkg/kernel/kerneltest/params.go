// SPDX-License-Identifier: Apache-2.0

package kerneltest

import (
	"errors"
	"strconv"
	"strings"
	"syscall"

	"github.com/kmm-node/kmmd/pkg/kmod"
)

// setParameters does what parse_args of kernel/params.c does: it goes on after an error and returns the last one; an
// unknown parameter is a line in the log.
func (l *loading) setParameters() syscall.Errno {
	l.mod.Parameters = map[string]string{}
	for _, p := range l.file.Params {
		l.mod.Parameters[p.Name] = defaultValue(p.Type)
	}
	var last syscall.Errno
	for rest := strings.TrimLeft(l.r.Parameters, " \t\n"); rest != ""; {
		var a arg
		a, rest = nextArg(rest)
		if a.name == "--" && !a.hasValue {
			break
		}
		p := l.param(a.name)
		if p == nil {
			if a.name != "dyndbg" && a.name != "async_probe" {
				l.print("%s: unknown parameter '%s' ignored", l.mod.Name, a.name)
			}
			continue
		}
		shown, errno := setValue(p.Type, a)
		switch errno {
		case 0:
			l.mod.Parameters[p.Name] = shown
			continue
		case syscall.ENOSPC:
			l.print("%s: `%s' too large for parameter `%s'", l.mod.Name, a.value, a.name)
		default:
			l.print("%s: `%s' invalid for parameter `%s'", l.mod.Name, a.value, a.name)
		}
		last = errno
	}
	return last
}

// param finds a declared parameter; for the kernel '-' is '_' in their names.
func (l *loading) param(name string) *kmod.Param {
	name = strings.ReplaceAll(name, "-", "_")
	for i := range l.file.Params {
		if l.file.Params[i].Name == name {
			return &l.file.Params[i]
		}
	}
	return nil
}

// arg is one "name=value" of the parameter string.
type arg struct {
	name, value string
	hasValue    bool
}

// nextArg is next_arg of lib/cmdline.c: white space separates, '"' toggles quoting and is dropped around a value or
// around the whole argument, and there is no escape.
func nextArg(s string) (a arg, rest string) {
	quoted := strings.HasPrefix(s, `"`)
	s = strings.TrimPrefix(s, `"`)
	inQuote, equals, i := quoted, -1, 0
	for ; i < len(s); i++ {
		c := s[i]
		if !inQuote && (c == ' ' || c == '\t' || c == '\n') {
			break
		}
		if c == '=' && equals < 0 {
			equals = i
		}
		if c == '"' {
			inQuote = !inQuote
		}
	}
	word := s[:i]
	rest = strings.TrimLeft(s[i:], " \t\n")
	if quoted {
		word = strings.TrimSuffix(word, `"`)
	}
	if equals < 0 {
		return arg{name: word}, rest
	}
	a = arg{name: word[:equals], value: word[equals+1:], hasValue: true}
	if v, ok := strings.CutPrefix(a.value, `"`); ok {
		a.value = strings.TrimSuffix(v, `"`)
	}
	return a, rest
}

// setValue returns what sysfs shows after a parameter of that type was set.
func setValue(typ string, a arg) (string, syscall.Errno) {
	if elem, ok := strings.CutPrefix(typ, "array of "); ok {
		return setArray(elem, a)
	}
	if !a.hasValue && typ != "bool" && typ != "invbool" && typ != "bint" {
		return "", syscall.EINVAL
	}
	switch typ {
	case "charp", "string":
		if len(a.value) > 1024 {
			return "", syscall.ENOSPC
		}
		return a.value, 0
	case "bool", "invbool":
		return setBool(a)
	case "bint":
		shown, errno := setBool(a)
		return map[string]string{"Y": "1", "N": "0"}[shown], errno
	case "hexint":
		n, errno := parseInt(a.value, 0, 1<<32-1)
		return "0x" + strconv.FormatUint(n.abs, 16), errno
	}
	r, ok := intRanges()[typ]
	if !ok {
		return a.value, 0
	}
	n, errno := parseInt(a.value, r.neg, r.pos)
	return n.String(), errno
}

func setArray(elem string, a arg) (string, syscall.Errno) {
	if !a.hasValue {
		return "", syscall.EINVAL
	}
	var shown []string
	for v := range strings.SplitSeq(a.value, ",") {
		s, errno := setValue(elem, arg{name: a.name, value: v, hasValue: true})
		if errno != 0 {
			return "", errno
		}
		shown = append(shown, s)
	}
	return strings.Join(shown, ","), 0
}

// setBool is kstrtobool (lib/kstrtox.c), which looks at no more than two characters.
func setBool(a arg) (string, syscall.Errno) {
	v := strings.ToLower(a.value)
	switch {
	case !a.hasValue:
		return "Y", 0
	case v == "":
		return "", syscall.EINVAL
	case strings.ContainsRune("yt1", rune(v[0])), strings.HasPrefix(v, "on"):
		return "Y", 0
	case strings.ContainsRune("nf0", rune(v[0])), strings.HasPrefix(v, "of"):
		return "N", 0
	}
	return "", syscall.EINVAL
}

// integer is a sign and a value.
type integer struct {
	negative bool
	abs      uint64
}

func (n integer) String() string {
	s := strconv.FormatUint(n.abs, 10)
	if n.negative && n.abs != 0 {
		s = "-" + s
	}
	return s
}

// intRange is how far down and up a type goes.
type intRange struct{ neg, pos uint64 }

func intRanges() map[string]intRange {
	return map[string]intRange{
		"byte": {0, 1<<8 - 1}, "short": {1 << 15, 1<<15 - 1}, "ushort": {0, 1<<16 - 1},
		"int": {1 << 31, 1<<31 - 1}, "uint": {0, 1<<32 - 1},
		"long": {1 << 63, 1<<63 - 1}, "ulong": {0, 1<<64 - 1}, "ullong": {0, 1<<64 - 1},
	}
}

// parseInt is kstrtoll and its kin: a sign, then decimal, octal with 0 or hexadecimal with 0x.
func parseInt(s string, neg, pos uint64) (integer, syscall.Errno) {
	var n integer
	digits := s
	switch {
	case strings.HasPrefix(s, "+"):
		digits = s[1:]
	case strings.HasPrefix(s, "-") && neg > 0:
		n.negative, digits = true, s[1:]
	}
	base := 10
	if lower := strings.ToLower(digits); strings.HasPrefix(lower, "0x") {
		base, digits = 16, digits[2:]
	} else if len(digits) > 1 && digits[0] == '0' {
		base = 8
	}
	abs, err := strconv.ParseUint(digits, base, 64)
	limit := pos
	if n.negative {
		limit = neg
	}
	switch {
	case errors.Is(err, strconv.ErrRange), err == nil && abs > limit:
		return integer{}, syscall.ERANGE
	case err != nil:
		return integer{}, syscall.EINVAL
	}
	n.abs = abs
	return n, 0
}

// defaultValue is what sysfs shows of a variable that is zero.
func defaultValue(typ string) string {
	switch typ {
	case "bool":
		return "N"
	case "invbool":
		return "Y"
	case "charp":
		return "(null)"
	case "string":
		return ""
	case "hexint":
		return "0x0"
	}
	if strings.HasPrefix(typ, "array of ") {
		return ""
	}
	return "0"
}
