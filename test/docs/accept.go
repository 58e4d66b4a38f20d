// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Accept requires that the program takes all that the pages give it: commands,
// flags, arguments. Nothing is run; root leads to the repository, and program makes
// a new one each time. It returns how many calls there are.
func Accept(t *testing.T, root, name string, program func() *cobra.Command) int {
	t.Helper()
	pages, err := All(root)
	require.NoError(t, err)
	calls, err := Calls(pages, name)
	require.NoError(t, err)
	for _, c := range calls {
		args := slices.DeleteFunc(slices.Clone(c.Args[1:]), func(a string) bool { return a == "--help" })
		for i := range args {
			args[i] = strings.ReplaceAll(args[i], "$(uname -r)", "6.1.0-56-amd64") // as the shell does
		}
		cmd, rest, err := program().Find(args)
		if !assert.NoError(t, err, c.Command) {
			continue
		}
		// A line of text may have less than a whole command, and nothing wrong.
		err = cmd.ParseFlags(rest)
		if c.Inline && err != nil && strings.HasPrefix(err.Error(), "flag needs an argument") {
			continue
		}
		assert.NoError(t, err, c.Command)
		if args = cmd.Flags().Args(); !c.Inline || len(args) > 0 {
			assert.NoError(t, cmd.ValidateArgs(args), c.Command)
		}
	}
	return len(calls)
}
