// SPDX-License-Identifier: Apache-2.0

package kmod_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/kmod"
	"github.com/kmm-node/kmmd/pkg/kmod/kmodtest"
)

func TestCheckParameters(t *testing.T) {
	info, err := kmod.ParseInfo("m.ko", bytes.NewReader(kmodtest.Build(kmodtest.Spec{Name: "m", Params: []kmodtest.Param{
		{Name: "i", Type: "int"}, {Name: "u", Type: "uint"}, {Name: "b8", Type: "byte"}, {Name: "s", Type: "short"}, {Name: "l", Type: "long"}, {Name: "ul", Type: "ulong"},
		{Name: "flag", Type: "bool"}, {Name: "inv", Type: "invbool"}, {Name: "bi", Type: "bint"}, {Name: "text", Type: "charp"}, {Name: "str", Type: "string"},
		{Name: "arr", Type: "array of int"}, {Name: "names", Type: "array of charp"}, {Name: "own", Type: "colour"}, {Name: "some-name", Type: "int"},
		{Name: "described", Desc: "only"}, {Name: "hidden"},
	}})))
	require.NoError(t, err)
	long := strings.Repeat("x", 1025)
	tests := []struct {
		name string
		ok   string // words, each fine
		bad  []string
	}{
		{name: "int", ok: "i=1 i=-1 i=+7 i=0x1F i=0XaB i=017 i=2147483647 i=-2147483648 i=0",
			bad: []string{"i", "i=", "i=abc", "i=1a", "i=2147483648", "i=-2147483649", "i=08", "i=0x", "i=1_000", "i= 1", "i=--1", "i=0b1", "i=1.0", `i="1 "`}},
		{name: "uint", ok: "u=4294967295 u=0", bad: []string{"u=-1", "u=4294967296"}},
		{name: "byte", ok: "b8=255", bad: []string{"b8=256", "b8=-1"}},
		{name: "short", ok: "s=-32768 s=32767", bad: []string{"s=32768"}},
		{name: "long", ok: "l=9223372036854775807 l=-9223372036854775808", bad: []string{"l=9223372036854775808", "l=99999999999999999999"}},
		{name: "ulong", ok: "ul=18446744073709551615", bad: []string{"ul=18446744073709551616", "ul=-1"}},
		{name: "bool", ok: "flag flag=y flag=N flag=1 flag=0 flag=on flag=OFF flag=true flag=False flag=yolo", bad: []string{"flag=", "flag=maybe", "flag=2", "flag=o", "flag=ox"}},
		{name: "invbool", ok: "inv=n", bad: []string{"inv", "inv=x"}},
		{name: "bint", ok: "bi bi=1", bad: []string{"bi=7"}},
		{name: "charp", ok: "text= text=x", bad: []string{"text", "text=" + long}},
		{name: "string", ok: "str=x", bad: []string{"str"}},
		{name: "array", ok: "arr=1 arr=1,2,0x3 names=a,,b", bad: []string{"arr", "arr=", "arr=1,", "arr=1,x", "arr=1;2"}},
		{name: "not known", ok: "own=red own described=x hidden=y hidden"},
		{name: "dash", ok: "some_name=1 some-name=1", bad: []string{"some_name=x"}},
		{name: "of every module", ok: "dyndbg=+p dyndbg async_probe async_probe=1"},
		{name: "unknown", bad: []string{"nosuch=1", "nosuch", "I=1"}},
		{name: "no parameter at all", bad: []string{"", "=1", "--", "a b=1", "i=1\nu=2", "text='a b'", `text="a`, `text="a b`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			assert.NoError(t, info.CheckParameters(strings.Fields(tt.ok)))
			for _, bad := range tt.bad {
				var e *kmod.ParamError
				require.ErrorAs(t, info.CheckParameters([]string{bad}), &e, bad)
				assert.Equal(t, "m", e.Module)
			}
		})
	}
	err = info.CheckParameters([]string{"i=abc", "flag", "nosuch=1"})
	require.EqualError(t, err, "check parameters of m: i=abc: want a whole number of 32 bits\ncheck parameters of m: unknown parameter nosuch")
	var joined interface{ Unwrap() []error }
	require.ErrorAs(t, err, &joined)
	assert.Len(t, joined.Unwrap(), 2)
}

func TestJoinParameters(t *testing.T) {
	tests := []struct {
		name   string
		params []string
		want   string
	}{
		{name: "none"},
		{name: "plain", params: []string{"a=1", "flag", "b=x,y"}, want: "a=1 flag b=x,y"},
		{name: "empty value", params: []string{"a="}, want: "a="},
		{name: "blanks", params: []string{"a=x y", "b=x\ty", "c= "}, want: "a=\"x y\" b=\"x\ty\" c=\" \""},
		{name: "quoted value", params: []string{`a="x y"`, `b="x"`}, want: `a="x y" b=x`},
		{name: "quoted word", params: []string{`"a=x y"`, `"flag"`}, want: `a="x y" flag`},
		{name: "quotes inside", params: []string{`a=x"y z"w`, `b=x""`}, want: `a=x"y z"w b=x""`},
		{name: "blank the kernel knows", params: []string{"a=\u00e0"}, want: "a=\"\u00e0\""},
		{name: "single quotes", params: []string{"a='x'"}, want: "a='x'"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := kmod.JoinParameters(tt.params)
			require.NoError(t, err)
			assert.Equal(t, tt.want, got)
			assert.Len(t, kernelSplit(got), len(tt.params))
		})
	}
	for _, bad := range []string{"a=x\x00", "a=x\ny", "", "=1", "--", "a b=1", `a=x" y`, `a="x`, "a='x y'", `a=x "y" z"`, `a"b=1`, `a=x"`} {
		_, err := kmod.JoinParameters([]string{bad})
		assert.Error(t, err, bad)
	}
}

// kernelSplit is next_arg of lib/cmdline.c: names and values as a module gets them.
func kernelSplit(s string) [][2]string {
	var list [][2]string
	blank := func(c byte) bool { return strings.IndexByte(" \t\n\v\f\r\xa0", c) >= 0 }
	for {
		for s != "" && blank(s[0]) {
			s = s[1:]
		}
		if s == "" {
			return list
		}
		equals, quoted, inQuote := -1, s[0] == '"', s[0] == '"'
		if quoted {
			s = s[1:]
		}
		i := 0
		for ; i < len(s) && (inQuote || !blank(s[i])); i++ {
			if equals < 0 && s[i] == '=' {
				equals = i
			}
			if s[i] == '"' {
				inQuote = !inQuote
			}
		}
		word := s[:i]
		s = s[min(i+1, len(s)):]
		if quoted && strings.HasSuffix(word, `"`) {
			word = word[:len(word)-1]
		}
		name, value := word, ""
		if equals >= 0 {
			name, value = word[:equals], word[equals+1:]
			if strings.HasPrefix(value, `"`) {
				value = strings.TrimSuffix(value[1:], `"`)
			}
		}
		list = append(list, [2]string{name, value})
	}
}

// FuzzJoinParameters holds what is joined against the kernel's splitting.
func FuzzJoinParameters(f *testing.F) {
	for _, s := range []string{"x", "x y", `x"y z"`, `"x y"`, "'x y'", "\xa0", `""`, `x" "`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, value string) {
		joined, err := kmod.JoinParameters([]string{"first=1", "p=" + value, "last"})
		if err != nil {
			return
		}
		if len(value) >= 2 && value[0] == '"' && value[len(value)-1] == '"' {
			value = value[1 : len(value)-1]
		}
		assert.Equal(t, [][2]string{{"first", "1"}, {"p", value}, {"last", ""}}, kernelSplit(joined), joined)
	})
}

func TestSameParameter(t *testing.T) {
	tests := []struct {
		typ, wanted, shown string
		same, known        bool
	}{
		{"int", "0x10", "16\n", true, true}, {"int", "-1", "-1", true, true}, {"int", "1", "-1", false, true}, {"int", "-0", "0", true, true}, {"hexint", "255", "0x0000ff", true, true},
		{"bool", "", "Y\n", true, true}, {"bool", "1", "Y", true, true}, {"bool", "off", "Y", false, true}, {"invbool", "n", "N", true, true}, {"bint", "y", "1", true, true},
		{"charp", "a b", "a b\n", true, true}, {"charp", `"a b"`, "a b", true, true}, {"charp", "a", "b", false, true}, {"string", "x", "x", true, true},
		{"array of int", "1,0x2", "1,2\n", true, true}, {"array of int", "1,2", "1,3", false, true}, {"array of int", "1,2", "1", false, true}, {"array of int", "1,2", "1,2,0", false, false},
		{"array of bool", "y,n", "Y,N", true, true},
		{"colour", "red", "red", true, true}, {"colour", "red", "0xff0000", false, false}, {"", "1", "1", true, true}, {"int", "junk", "1", false, false},
	}
	for _, tt := range tests {
		same, known := kmod.SameParameter(tt.typ, tt.wanted, tt.shown)
		assert.Equal(t, [2]bool{tt.same, tt.known}, [2]bool{same, known}, "%s %s %s", tt.typ, tt.wanted, tt.shown)
	}
}
