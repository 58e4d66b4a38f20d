// SPDX-License-Identifier: Apache-2.0

// Package tally counts the cases of fault campaigns by family, for
// docs/reliability.md. Tests only.
package tally

import (
	"fmt"
	"maps"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"
)

// Counts are the cases so far. The zero value is ready.
type Counts struct {
	mu   sync.Mutex // guards rows
	rows map[string]row
}

type row struct{ cases, passed int }

// Case counts a case of a family once its test has ended. It is called at the
// beginning of that test, and what it gives is deferred: a panic then is a failure
// of this case, and the others are still played.
func (c *Counts) Case(t testing.TB, family string) (survive func()) {
	t.Helper()
	t.Cleanup(func() { c.Add(family, !t.Failed()) })
	return func() {
		if v := recover(); v != nil {
			t.Errorf("panic: %v\n%s", v, debug.Stack())
		}
	}
}

// Add counts a case.
func (c *Counts) Add(family string, passed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.rows == nil {
		c.rows = map[string]row{}
	}
	r := c.rows[family]
	r.cases++
	if passed {
		r.passed++
	}
	c.rows[family] = r
}

// String is a line for each family, and one for all:
//
//	kill, swap: 82 cases, 82 passed
func (c *Counts) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var b strings.Builder
	all := row{}
	for _, family := range slices.Sorted(maps.Keys(c.rows)) {
		r := c.rows[family]
		fmt.Fprintf(&b, "%s: %d cases, %d passed\n", family, r.cases, r.passed)
		all.cases += r.cases
		all.passed += r.passed
	}
	fmt.Fprintf(&b, "all: %d cases, %d passed\n", all.cases, all.passed)
	return b.String()
}
