// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/kmm-node/kmmd/pkg/images"
	"github.com/kmm-node/kmmd/pkg/sign"
	"github.com/kmm-node/kmmd/pkg/sign/image"
)

func signImageCommand(o *options) *cobra.Command {
	var f copyFlags
	var key keyFlags
	var files []string
	cmd := &cobra.Command{
		Use:   "image --from REF|oci:/DIR --to REF|oci:/DIR --files GLOB... --key FILE --cert FILE",
		Short: "sign the modules in an image",
		Long: `image signs the modules that the globs stand for and writes the image with one more
layer, which has the signed files and nothing else. What is signed already by this
certificate stays as it is; an image in which all is signed keeps its digest. Of an
index each image is signed.

GLOB is an absolute path in the image as a shell takes it: "*", "?", "[a-z]" and "[!a]"
match neither a slash nor the dot a name begins with. Each has to match a file.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(files) == 0 {
				return usageError{errors.New("sign image: --files is needed: which modules?")}
			}
			var globs []images.Glob
			for _, pattern := range files {
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
	cmd.Flags().StringArrayVar(&files, "files", nil, "modules to sign, by path in the image; may be repeated")
	return cmd
}

// passphraseVariable is where the kernel's own sign-file looks (scripts/sign-file.c).
const passphraseVariable = "KBUILD_SIGN_PIN"

// keyFlags say what is signed with.
type keyFlags struct{ key, cert, hash string }

func (f *keyFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.key, "key", "", "private key, PEM or DER; the passphrase of an encrypted one is taken from "+passphraseVariable)
	flags.StringVar(&f.cert, "cert", "", "its certificate, PEM or DER")
	flags.StringVar(&f.hash, "hash", "sha256", "sha256, sha384 or sha512")
}

// signer reads the files.
func (f *keyFlags) signer() (*sign.Signer, error) {
	if f.key == "" || f.cert == "" {
		return nil, usageError{errors.New("--key and --cert are needed")}
	}
	hash, err := sign.ParseHash(f.hash)
	if err != nil {
		return nil, usageError{err}
	}
	pem, err := os.ReadFile(f.key)
	if err != nil {
		return nil, fmt.Errorf("read the key: %w", err)
	}
	key, err := sign.ReadKey(pem, os.Getenv(passphraseVariable))
	if err != nil {
		return nil, fmt.Errorf("read the key %s: %w", f.key, err)
	}
	if pem, err = os.ReadFile(f.cert); err != nil {
		return nil, fmt.Errorf("read the certificate: %w", err)
	}
	cert, err := sign.ReadCertificate(pem)
	if err != nil {
		return nil, fmt.Errorf("read the certificate %s: %w", f.cert, err)
	}
	return sign.New(key, cert, hash)
}

func signCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{Use: "sign", Short: "sign kernel modules"}
	cmd.AddCommand(signImageCommand(o))
	return cmd
}
