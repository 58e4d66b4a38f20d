// SPDX-License-Identifier: Apache-2.0

package tally

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestCounts(t *testing.T) {
	var c Counts
	t.Run("case", func(t *testing.T) { c.Case(t, "kill") })
	c.Add("kill", false)
	c.Add("disk", true)
	assert.Equal(t, "disk: 1 cases, 1 passed\nkill: 2 cases, 1 passed\nall: 3 cases, 2 passed\n", c.String())
}
