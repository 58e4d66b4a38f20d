// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/kmm-node/kmmd/pkg/kernel"
	"github.com/kmm-node/kmmd/pkg/kmod"
)

func depsCommand(o *options) *cobra.Command {
	var root, release string
	cmd := &cobra.Command{
		Use:   "deps [--root DIR] [--kernel RELEASE] NAME…",
		Short: "print the lines of modprobe --show-depends",
		Long: `deps prints what modprobe would load for a module, an alias or a symbol, in order,
as modprobe --show-depends does. It reads modprobe.d below --root and, with the
node's own root, the module parameters of the kernel command line.

Exit codes: 0 all names known, 1 one is not, 2 usage.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageError{errors.New("deps: which module? give one or more names")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return runDeps(cmd, o, root, release, args) },
	}
	cmd.Flags().StringVar(&root, "root", "/", "directory that holds lib/modules and etc/modprobe.d")
	cmd.Flags().StringVar(&release, "kernel", "", "kernel release (default the running one)")
	return cmd
}

func runDeps(cmd *cobra.Command, o *options, root, release string, names []string) error {
	cmdline := ""
	if filepath.Clean(root) == "/" {
		host, err := kernel.Open("")
		if err != nil {
			return err
		}
		cmdline = host.Cmdline()
		if release == "" {
			release = host.Release()
		}
	}
	if release == "" {
		return usageError{errors.New("deps: --root needs --kernel")}
	}
	index, err := kmod.OpenIndex(filepath.Join(root, "lib/modules", release))
	if err != nil {
		return err
	}
	config, err := kmod.ReadConfig(root, cmdline)
	if err != nil {
		return err
	}
	found := map[string][]string{}
	var errs []error
	out := &printer{w: cmd.OutOrStdout()}
	for _, name := range names {
		lines, err := index.ShowDepends(config, name)
		if err != nil {
			errs = append(errs, fmt.Errorf("deps: %w", err))
			continue
		}
		found[name] = []string{}
		for _, l := range lines {
			found[name] = append(found[name], l.String())
			if o.output == "" {
				out.line("%s", l)
			}
		}
	}
	if o.output == "json" {
		errs = append(errs, writeJSON(cmd.OutOrStdout(), found))
	}
	return errors.Join(append(errs, out.err)...)
}
