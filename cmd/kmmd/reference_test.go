// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/test/reference"
)

//go:generate go test -vet=off -run ^TestReference$ . -update

// TestReference holds the pages about kmmd, and the configuration file of the
// packages, against the code. With -update it writes them.
func TestReference(t *testing.T) {
	const repository = "../.."
	read := reference.NewCode(repository)
	source, err := read.Package("cmd/kmmd")
	require.NoError(t, err)
	tables, err := reference.Tables(source, defaultConfig())
	require.NoError(t, err)
	reference.Hold(t, repository, "docs/reference/configuration.md", reference.Configuration(tables), *update)
	reference.Hold(t, repository, "deploy/packages/kmmd.toml", reference.ConfigurationFile(headOfFile, tables), *update)

	environment, err := source.Choose("variables of the environment", reference.Group("Variables of the environment"))
	require.NoError(t, err)
	commands, err := reference.Commands(rootCommand(), "cmd/kmmd", environment)
	require.NoError(t, err)
	reference.Hold(t, repository, "docs/reference/kmmd.md", commands, *update)

	exit, err := read.Package("pkg/exit")
	require.NoError(t, err)
	codes, err := exit.Choose("exit codes", reference.OfType("Code"))
	require.NoError(t, err)
	page, err := reference.ExitCodes(codes, rootCommand())
	require.NoError(t, err)
	reference.Hold(t, repository, "docs/reference/exit-codes.md", page, *update)
}

// headOfFile is what kmmd.toml begins with.
const headOfFile = "kmmd's configuration. What is commented out is the default; docs/reference/configuration.md is the same as a page. " +
	"Restart the service after a change: systemctl restart kmmd.service. Modules stay as they are meanwhile. " +
	"The units of systemd allow writing to the directories below only: for others they need a drop-in with ReadWritePaths=."
