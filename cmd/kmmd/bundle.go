// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kmm-node/kmmd/pkg/bundle"
)

func bundleCommand(o *options) *cobra.Command {
	var to string
	cmd := &cobra.Command{
		Use:   "bundle [--to FILE]",
		Short: "write all that is known of this node into one archive, without secrets",
		Long: `bundle writes a tar.gz for somebody who can not look at this node: status, plan,
configuration, documents and the cluster's last order, what the kernel is and has,
its log lines about modules, the modules that are wanted and loaded, the image
store, versions. It changes nothing, asks no registry and no API server, and needs
no running kmmd: what can not be had is a file NAME.error that says why.

Passwords, tokens, keys, headers for registries, build arguments and values of
environment variables are taken out. It is for root, who alone can read all of it;
the archive has mode 0600. Look into it before you give it away: names of hosts,
images and modules are in it.

Exit codes: 0 written, also when a part could not be had, 1 not written, 2 usage.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runBundle(cmd, o, to, time.Now()) },
	}
	cmd.Flags().StringVar(&to, "to", "", "the archive to write, which may not exist yet; - is standard output (default kmmd-bundle-HOST-TIME.tar.gz)")
	return cmd
}

func runBundle(cmd *cobra.Command, o *options, to string, now time.Time) error {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	dir := fmt.Sprintf("kmmd-bundle-%s-%s", host, now.UTC().Format("20060102T150405Z"))
	if to == "" {
		to = dir + ".tar.gz"
	}
	c := newCollector(o)
	write := func(w io.Writer) ([]bundle.Entry, error) {
		return bundle.Write(cmd.Context(), w, dir, now, c.redactor(), c.parts())
	}
	if to == "-" {
		_, err := write(cmd.OutOrStdout())
		return err
	}
	entries, err := writeArchive(to, write)
	if err != nil {
		return err
	}
	return printBundle(cmd.OutOrStdout(), o, to, entries)
}

// writeArchive makes the file, which nobody else may read, or leaves none.
func writeArchive(path string, write func(io.Writer) ([]bundle.Entry, error)) ([]bundle.Entry, error) {
	// O_EXCL also keeps it from following a link that somebody put into /tmp.
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("write bundle %s: there is such a file: remove it, or give another name with --to", path)
	}
	if err != nil {
		return nil, fmt.Errorf("write bundle: %w", err)
	}
	entries, err := write(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, errors.Join(err, os.Remove(path))
	}
	return entries, nil
}

func printBundle(w io.Writer, o *options, path string, entries []bundle.Entry) error {
	if o.output == "json" {
		return writeJSON(w, struct {
			File  string         `json:"file"`
			Parts []bundle.Entry `json:"parts"`
		}{path, entries})
	}
	out := &printer{w: w}
	missing := 0
	for _, e := range entries {
		if e.Error != "" {
			missing++
			out.line("not had: %s: %s", e.Name, strings.ReplaceAll(e.Error, "\n", "\n         "))
		}
	}
	out.line("%s: %d parts, %d not had or not all of it. Look into it before you give it away.", path, len(entries), missing)
	return out.err
}
