// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/kmm-node/kmmd/pkg/images"
	"github.com/kmm-node/kmmd/pkg/sign/image"
)

func signImageCommand(o *options) *cobra.Command {
	var f copyFlags
	var key signFlags
	var files []string
	cmd := &cobra.Command{
		Use:   "image --from REF|oci:/DIR --to REF|oci:/DIR --files GLOB... --key FILE --cert FILE",
		Short: "sign the modules in an image",
		Long: `image signs the modules that the globs stand for and writes the image with one more
layer, which has the signed files and nothing else. What is signed already by this
certificate stays as it is; an image in which all is signed keeps its digest. Of an
index each image is signed.

GLOB is an absolute path in the image as a shell takes it: "*", "?", "[a-z]" and "[!a]"
match neither a slash nor the dot a name begins with. Each has to match a file.

` + copyExitCodes,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(files) == 0 {
				return usageError{errors.New("sign image: --files is needed: which modules?")}
			}
			var globs []images.Glob
			for _, pattern := range append(files, args...) {
				g, err := images.ParseGlob(pattern)
				if err != nil {
					return usageError{err}
				}
				globs = append(globs, g)
			}
			signer, err := key.signer()
			if err != nil {
				return err
			}
			return f.run(cmd, o, func() (*image.Result, error) { return image.Sign(cmd.Context(), f.Options, signer, globs) })
		},
	}
	f.register(cmd)
	key.register(cmd)
	cmd.Flags().StringArrayVar(&files, "files", nil, "modules to sign, by path in the image; may be repeated, and further ones need no --files")
	return cmd
}
