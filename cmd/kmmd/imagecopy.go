// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/kmm-node/kmmd/pkg/images"
	"github.com/kmm-node/kmmd/pkg/images/credentials"
	"github.com/kmm-node/kmmd/pkg/sign/image"
)

// copyFlags are those of the commands that take an image from one place to another.
type copyFlags struct {
	image.Options
	authfiles []string
	result    string
}

// copyExitCodes is for the help of these commands.
const copyExitCodes = `Exit codes: 0 all well, 1 the image can not be had or made, 2 usage, or a key or
certificate that can not be used, 3 it was made and could not be written.`

func (f *copyFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.From.Ref, "from", "", "the image: REF of a registry, oci:/DIRECTORY or oci-archive:/FILE")
	flags.StringVar(&f.To.Ref, "to", "", "where it goes: REF with a tag, or oci:/DIRECTORY")
	flags.BoolVar(&f.From.Insecure, "insecure-from", false, "allow plain http where the image comes from")
	flags.BoolVar(&f.From.SkipTLSVerify, "skip-tls-verify-from", false, "take any certificate where the image comes from")
	flags.BoolVar(&f.To.Insecure, "insecure-to", false, "allow plain http where the image goes")
	flags.BoolVar(&f.To.SkipTLSVerify, "skip-tls-verify-to", false, "take any certificate where the image goes")
	flags.StringArrayVar(&f.authfiles, "authfile", nil, "file with credentials as of kubernetes.io/dockerconfigjson; "+
		"may be repeated: the longest name that fits counts (default docker's and podman's own files)")
	flags.StringVar(&f.result, "result", "", "file to write the result to, as a line of JSON")
}

// run has do make an image, and tells what became of it.
func (f *copyFlags) run(cmd *cobra.Command, o *options, do func() (*image.Result, error)) error {
	if f.From.Ref == "" || f.To.Ref == "" {
		return usageError{errors.New("--from and --to are needed: see --help")}
	}
	var err error
	if f.Keyring, err = readLogins(cmd, f.authfiles); err != nil {
		return err
	}
	// A file that can not be written to has to show before anything is published.
	result, err := openResult(f.result)
	if err != nil {
		return err
	}
	defer result.Close()
	r, err := do()
	if errors.Is(err, images.ErrInvalidRef) {
		return usageError{err}
	}
	if err != nil {
		return err
	}
	if result != nil {
		if err := errors.Join(json.NewEncoder(result).Encode(r), result.Close()); err != nil {
			return fmt.Errorf("the image is written, but the result is not: %w", err)
		}
	}
	if o.output == "json" {
		return writeJSON(cmd.OutOrStdout(), r)
	}
	out := &printer{w: cmd.OutOrStdout()}
	out.line("image   %s", r.Image)
	out.line("digest  %s", r.Digest)
	if r.Unchanged {
		out.line("as it was in %s", f.From.Ref)
	} else {
		out.line("signed  %d files", r.Signed)
	}
	return out.err
}

// readLogins reads these files, as far as they are there, or those where docker
// and podman keep what their user has logged in to.
func readLogins(cmd *cobra.Command, files []string) (*credentials.Keyring, error) {
	if len(files) == 0 {
		k, err := credentials.Load(credentials.Options{Files: usersLogins()})
		if err != nil {
			return nil, usageError{err}
		}
		return credentials.Merge(k), nil
	}
	secrets, err := readSecrets(present(cmd, files))
	if err != nil {
		return nil, err
	}
	var all []*credentials.Keyring
	for _, s := range secrets {
		k, err := credentials.Parse(s.Name, s.Data)
		if err != nil {
			return nil, fmt.Errorf("read credentials: %w", err)
		}
		all = append(all, k)
	}
	return credentials.Merge(all...), nil
}

// present are the files that are there: a pull secret that is not stops no pod
// either. The others are named in a warning.
func present(cmd *cobra.Command, files []string) []string {
	return slices.DeleteFunc(slices.Clone(files), func(name string) bool {
		_, err := os.Stat(name)
		missing := errors.Is(err, fs.ErrNotExist)
		if missing {
			fmt.Fprintf(cmd.ErrOrStderr(), "warning: credentials are passed over: %v\n", err)
		}
		return missing
	})
}

// usersLogins are the files of whoever runs this.
func usersLogins() []string {
	files := []string{} // not nil, which is the node's
	if dir := os.Getenv(dockerVariable); dir != "" {
		files = append(files, filepath.Join(dir, "config.json"))
	} else if home, err := os.UserHomeDir(); err == nil {
		files = append(files, filepath.Join(home, ".docker/config.json"))
	}
	if dir := os.Getenv(runtimeVariable); dir != "" {
		files = append(files, filepath.Join(dir, "containers/auth.json"))
	}
	return files
}

func imageCopyCommand(o *options) *cobra.Command {
	var f copyFlags
	cmd := &cobra.Command{
		Use:   "copy --from REF|oci:/DIR --to REF|oci:/DIR",
		Short: "copy an image, or an index with all its images, to a registry or a directory",
		Long: `copy takes the image as it is: same digest, same layers.

` + copyExitCodes,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.run(cmd, o, func() (*image.Result, error) { return image.Copy(cmd.Context(), f.Options) })
		},
	}
	f.register(cmd)
	return cmd
}

func imageLoginsCommand() *cobra.Command {
	var to string
	cmd := &cobra.Command{
		Use:   "logins --to FILE FILE...",
		Short: "make one docker configuration of several, for a tool that reads only one",
		Long: `logins reads the data of Secrets of type kubernetes.io/dockerconfigjson (or the older
kubernetes.io/dockercfg) and writes all logins into one file. Of those for the same
name the first counts. Without a FILE to read it writes one without logins.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if to == "" {
				return usageError{errors.New("image logins: --to is needed")}
			}
			k := &credentials.Keyring{}
			var err error
			if len(args) > 0 {
				if k, err = readLogins(cmd, args); err != nil {
					return err
				}
			}
			b, err := k.Document()
			if err != nil {
				return err
			}
			for _, note := range k.Warnings() {
				fmt.Fprintln(cmd.ErrOrStderr(), "warning:", note)
			}
			if err := os.WriteFile(to, append(b, '\n'), 0o600); err != nil {
				return fmt.Errorf("write logins: %w", err)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&to, "to", "", "file to write")
	return cmd
}
