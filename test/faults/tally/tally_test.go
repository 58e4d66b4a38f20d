// SPDX-License-Identifier: Apache-2.0

package tally

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestCounts(t *testing.T) {
	var c Counts
	t.Run("case", func(t *testing.T) { defer c.Case(t, "kill")() })
	c.Add("kill", false)
	c.Add("disk", true)
	assert.Equal(t, "disk: 1 cases, 1 passed\nkill: 2 cases, 1 passed\nall: 3 cases, 2 passed\n", c.String())
}

// fails is a test that has failed, which this one must not.
type fails struct {
	testing.TB
	failed bool
	end    func()
}

func (f *fails) Cleanup(end func())    { f.end = end }
func (f *fails) Errorf(string, ...any) { f.failed = true }
func (f *fails) Failed() bool          { return f.failed }

// TestPanic: a case that panics has failed, and that is all.
func TestPanic(t *testing.T) {
	var c Counts
	f := &fails{TB: t}
	func() {
		defer c.Case(f, "kill")()
		panic("oh")
	}()
	f.end()
	assert.Equal(t, "kill: 1 cases, 0 passed\nall: 1 cases, 0 passed\n", c.String())
}
