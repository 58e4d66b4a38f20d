// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestCurrentParameters(t *testing.T) {
	for _, tt := range []struct {
		name, typ, shown string
		out              string // "" is left out
		lost             bool
	}{
		{"a number", "int", "-3", "p=-3", false},
		{"an array", "array of bool", "Y,N", "p=Y,N", false},
		{"an array with nothing in it", "array of int", "", "", false},
		{"a string", "charp", "a b", "p=a b", false},
		{"an empty string", "string", "", "p=", false},
		{"an unset string", "charp", "(null)", "", false},
		{"an array of unset strings", "array of charp", "(null),(null),(null)", "", false},
		// The kernel shows each element, and would take "(null)" for a string.
		{"an unset string in an array", "array of charp", "a,(null),c", "", true},
		{"a string that no quotes go around", "charp", `a"b`, "", true},
		{"a number that is set as a bool", "bint", "1", "p=1", false},
		{"its other value", "bint", "0", "p=0", false},
		{"another value", "bint", "-1", "", true},
		{"one that begins like a bool", "bint", "10", "", true},
		{"several of them", "array of bint", "1,0", "p=1,0", false},
		{"several, and another value", "array of bint", "1,2", "", true},
		{"a parser of its own", "", "fast", "", true},
		{"of which nothing is shown", "", "", "", false},
		{"another one", "bool_enable_only", "N", "", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out, lost := currentParameters(map[string]string{"p": tt.typ}, map[string]string{"p": tt.shown})
			var wantOut, wantLost []string
			if tt.out != "" {
				wantOut = []string{tt.out}
			}
			if tt.lost {
				wantLost = []string{"p"}
			}
			assert.Equal(t, wantOut, out)
			assert.Equal(t, wantLost, lost)
		})
	}
	out, lost := currentParameters(map[string]string{"c": "int", "a": "int", "b": "int", "d": ""}, map[string]string{"c": "3", "a": "1", "d": "x"})
	assert.Equal(t, []string{"a=1", "c=3"}, out)
	assert.Equal(t, []string{"b", "d"}, lost, "what is not shown, and what can not be passed on")
}
