// SPDX-License-Identifier: Apache-2.0

package kmod

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// maxCharp is the longest value the kernel takes for a charp parameter
// (kernel/params.c: param_set_charp, ENOSPC beyond it).
const maxCharp = 1024

// ParamError is one parameter that a module would not take, or would silently
// ignore.
type ParamError struct {
	Module string
	Param  string
	Value  string
	Want   string // what would be right; empty when the module has no such parameter
}

// Error tells module, parameter, value and what is wanted.
func (e *ParamError) Error() string {
	if e.Want == "" {
		return fmt.Sprintf("check parameters of %s: unknown parameter %s", e.Module, e.Param)
	}
	return fmt.Sprintf("check parameters of %s: %s=%s: want %s", e.Module, e.Param, e.Value, e.Want)
}

// CheckParameters compares "name=value" or "name" words with the parameters the
// module has. The kernel ignores an unknown one with a line in the log, and for a
// bad value it says EINVAL and little else. All problems come joined, each a
// *ParamError. A parameter of a type that is not known takes any value.
func (i *Info) CheckParameters(params []string) error {
	var errs []error
	for _, p := range params {
		name, value, given, err := splitParameter(p)
		if err != nil {
			errs = append(errs, &ParamError{Module: i.Name, Param: name, Value: value, Want: err.Error()})
			continue
		}
		if name == "dyndbg" || name == "async_probe" { // every module has them (kernel/module/main.c)
			continue
		}
		declared := i.param(name)
		if declared == nil {
			errs = append(errs, &ParamError{Module: i.Name, Param: name, Value: value})
			continue
		}
		if want := wantValue(declared.Type, value, given); want != "" {
			errs = append(errs, &ParamError{Module: i.Name, Param: name, Value: value, Want: want})
		}
	}
	return errors.Join(errs...)
}

// JoinParameters makes the one string finit_module(2) takes out of "name=value" or
// "name" words. A value with blanks is quoted. The kernel (lib/cmdline.c:
// next_arg) splits at blanks outside of double quotes, drops the quotes around a
// whole value and knows no escape, so there are values that can not be passed:
// for those, and for NUL and newline, there is an error. Words that come quoted,
// `name="a b"` or `"name=a b"`, are taken as meant.
func JoinParameters(params []string) (string, error) {
	words := make([]string, 0, len(params))
	for _, p := range params {
		name, value, given, err := splitParameter(p)
		if err != nil {
			return "", fmt.Errorf("join parameters: %q: %w", p, err)
		}
		if !given {
			words = append(words, name)
			continue
		}
		switch {
		case !strings.HasPrefix(value, `"`) && plainValue(value):
			words = append(words, name+"="+value)
		case plainValue(`"` + value + `"`):
			words = append(words, name+`="`+value+`"`)
		default:
			return "", fmt.Errorf("join parameters: %q: the kernel has no way to quote this value", p)
		}
	}
	return strings.Join(words, " "), nil
}

// plainValue tells whether the kernel takes the text, standing after "name=", for
// one value and as it is but for quotes around all of it.
func plainValue(s string) bool {
	quoted := false
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '"':
			quoted = !quoted
		case !quoted && kernelSpace(s[i]):
			return false
		}
	}
	if quoted {
		return false
	}
	// A quote at the start goes away, with one at the end if there is one. So
	// both must be there, and be ours.
	return s == "" || s[0] != '"' || len(s) >= 2 && s[len(s)-1] == '"'
}

// kernelSpace is the kernel's isspace, which takes 0xa0 for a blank too (lib/ctype.c).
func kernelSpace(c byte) bool { return isSpace(c) || c == 0xa0 }

// splitParameter takes "name=value" or "name" apart and the quotes off. given
// tells whether there is a '='.
func splitParameter(p string) (name, value string, given bool, err error) {
	if len(p) >= 2 && p[0] == '"' && p[len(p)-1] == '"' {
		p = p[1 : len(p)-1]
		if strings.HasPrefix(p, `"`) {
			return p, "", false, errors.New("a name before the quotes")
		}
	}
	name, value, given = strings.Cut(p, "=")
	switch {
	case strings.ContainsAny(p, "\x00\n"):
		err = errors.New("no NUL and no newline")
	case name == "":
		err = errors.New("a name")
	case name == "--":
		err = errors.New("a name, -- ends all parameters")
	case strings.Contains(name, `"`) || strings.ContainsFunc(name, func(r rune) bool { return r < 0x80 && isSpace(byte(r)) }):
		err = errors.New("a name without blanks and quotes")
	case strings.HasPrefix(value, "'") && strings.ContainsAny(value, " \t"):
		err = errors.New("double quotes, the kernel knows no others")
	case strings.HasPrefix(value, `"`):
		if len(value) < 2 || value[len(value)-1] != '"' || !plainValue(value) {
			err = errors.New("quotes around the whole value")
			break
		}
		value = value[1 : len(value)-1]
	}
	return name, value, given, err
}

// wantValue gives "" when the kernel would take the value for the type, and else
// what it takes (kernel/params.c).
func wantValue(typ, value string, given bool) string {
	if elem, ok := strings.CutPrefix(typ, "array of "); ok {
		if !given {
			return "values separated by commas"
		}
		for v := range strings.SplitSeq(value, ",") {
			if want := wantValue(elem, v, true); want != "" {
				return want + ", or several separated by commas"
			}
		}
		return ""
	}
	switch typ {
	case "bool", "bint", "bool_enable_only":
		if !given {
			return ""
		}
		fallthrough
	case "invbool":
		if _, ok := parseBool(value); !ok {
			return "y or n"
		}
	case "charp":
		if !given {
			return "a string"
		}
		if len(value) > maxCharp {
			return fmt.Sprintf("at most %d bytes", maxCharp)
		}
	case "string":
		if !given {
			return "a string"
		}
	default:
		if bits, signed, ok := intType(typ); ok {
			if want := wantInt(value, bits, signed); want != "" {
				return want
			}
		}
	}
	return ""
}

func intType(typ string) (bits int, signed, ok bool) {
	switch typ {
	case "byte":
		return 8, false, true
	case "short":
		return 16, true, true
	case "ushort":
		return 16, false, true
	case "int":
		return 32, true, true
	case "uint", "hexint":
		return 32, false, true
	case "long":
		return 64, true, true
	case "ulong", "ullong":
		return 64, false, true
	}
	return 0, false, false
}

func wantInt(value string, bits int, signed bool) string {
	v, negative, ok := parseInt(value)
	limit := uint64(1)<<(bits-1) - 1 // the largest signed
	kind := fmt.Sprintf("a whole number of %d bits", bits)
	switch {
	case !ok:
		return kind
	case !signed && negative:
		return kind + " without sign"
	case !signed:
		limit = limit*2 + 1
	case negative:
		limit++
	}
	if v > limit {
		return kind
	}
	return ""
}

// parseInt reads a number as kstrtoll and kstrtoull do with base 0: a sign, 0x
// for hexadecimal, 0 for octal, nothing around it (lib/kstrtox.c).
func parseInt(s string) (abs uint64, negative, ok bool) {
	if s != "" && (s[0] == '-' || s[0] == '+') {
		negative = s[0] == '-'
		s = s[1:]
	}
	base := 10
	if s != "" && s[0] == '0' {
		base = 8
		if len(s) > 2 && s[1]|0x20 == 'x' {
			base, s = 16, s[2:]
		}
	}
	if s == "" || s[0] == '-' || s[0] == '+' {
		return 0, false, false
	}
	abs, err := strconv.ParseUint(s, base, 64)
	return abs, negative, err == nil
}

// parseBool is kstrtobool: only the first character counts, or the second after
// an 'o'.
func parseBool(s string) (v, ok bool) {
	if s == "" {
		return false, false
	}
	switch s[0] {
	case 'y', 'Y', 't', 'T', '1':
		return true, true
	case 'n', 'N', 'f', 'F', '0':
		return false, true
	case 'o', 'O':
		if len(s) < 2 {
			return false, false
		}
		switch s[1] {
		case 'n', 'N':
			return true, true
		case 'f', 'F':
			return false, true
		}
	}
	return false, false
}
