// SPDX-License-Identifier: Apache-2.0

package main

import (
	"flag"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/test/reference"
)

//go:generate go test -vet=off -run ^TestReference$ . -update

var update = flag.Bool("update", false, "write the pages again")

// TestReference holds the page about kmm-watcher against its commands. With -update
// it writes it.
func TestReference(t *testing.T) {
	const repository = "../.."
	source, err := reference.NewCode(repository).Package("cmd/kmm-watcher")
	require.NoError(t, err)
	environment, err := source.Choose("variables of the environment", reference.Group("Variables of the environment"))
	require.NoError(t, err)
	page, err := reference.Commands(command("kmm-watcher"), "cmd/kmm-watcher", environment)
	require.NoError(t, err)
	reference.Hold(t, repository, "docs/reference/kmm-watcher.md", page, *update)
}
