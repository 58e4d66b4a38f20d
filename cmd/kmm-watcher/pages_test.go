// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/kmm-node/kmmd/test/docs"
)

// TestPages: the commands of the pages are there, with these flags and arguments.
func TestPages(t *testing.T) {
	assert.Greater(t, docs.Accept(t, "../..", "kmm-watcher", watcherCommand), 5)
}
