// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kmm-node/kmmd/pkg/kmod"
	"github.com/kmm-node/kmmd/pkg/sign"
)

// signFlags say who signs.
type signFlags struct {
	key, cert, hash, passphraseFile string
}

func (f *signFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.key, "key", "", "private key, RSA or ECDSA: PEM or DER; PKCS#8, PKCS#1 or SEC 1; encrypted or not")
	flags.StringVar(&f.cert, "cert", "", "its certificate: PEM or DER; may be the same file")
	flags.StringVar(&f.hash, "hash", "sha256", "sha256, sha384 or sha512")
	flags.StringVar(&f.passphraseFile, "passphrase-file", "", "file whose first line is the passphrase of the key (default the variable "+passphraseVariable+")")
}

// signer is the one that the flags name.
func (f *signFlags) signer() (*sign.Signer, error) {
	if f.key == "" {
		return nil, usageError{errors.New("sign: with which key? give --key and --cert")}
	}
	hash, err := sign.ParseHash(f.hash)
	if err != nil {
		return nil, usageError{fmt.Errorf("--hash: %w", err)}
	}
	cert, err := f.certificate()
	if err != nil {
		return nil, err
	}
	passphrase, err := f.passphrase()
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(f.key)
	if err != nil {
		return nil, usageError{fmt.Errorf("--key: %w", err)}
	}
	key, err := sign.ReadKey(data, passphrase)
	switch {
	case errors.Is(err, sign.ErrPassphrase):
		return nil, usageError{fmt.Errorf("--key %s: %w; it is taken from --passphrase-file or from the variable %s", f.key, err, passphraseVariable)}
	case err != nil:
		return nil, usageError{fmt.Errorf("--key %s: %w", f.key, err)}
	}
	s, err := sign.New(key, cert, hash)
	if err != nil {
		return nil, usageError{fmt.Errorf("--key %s, --cert %s: %w", f.key, f.cert, err)}
	}
	return s, nil
}

func (f *signFlags) certificate() (*x509.Certificate, error) {
	if f.cert == "" {
		return nil, usageError{errors.New("sign: with which certificate? give --cert")}
	}
	return readCertificate(f.cert)
}

// readCertificate reads the one that --cert names.
func readCertificate(file string) (*x509.Certificate, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, usageError{fmt.Errorf("--cert: %w", err)}
	}
	cert, err := sign.ReadCertificate(data)
	if err != nil {
		return nil, usageError{fmt.Errorf("--cert %s: %w", file, err)}
	}
	return cert, nil
}

func (f *signFlags) passphrase() (string, error) {
	if f.passphraseFile == "" {
		return os.Getenv(passphraseVariable), nil
	}
	data, err := os.ReadFile(f.passphraseFile)
	if err != nil {
		return "", usageError{fmt.Errorf("--passphrase-file: %w", err)}
	}
	line, _, _ := strings.Cut(string(data), "\n")
	return strings.TrimSuffix(line, "\r"), nil
}

func signCommand(o *options) *cobra.Command {
	var f signFlags
	var strip, verify bool
	cmd := &cobra.Command{
		Use:   "sign --key FILE --cert FILE FILE…\n  kmmd sign --verify --cert FILE FILE…\n  kmmd sign --strip FILE…",
		Short: "sign kernel module files, or check or remove their signatures",
		Long: `sign puts a signature at the end of each module file, as the kernel's sign-file does, in
place of those it has. A file that is signed with this certificate and hash already is
left as it is. Compressed files (.ko.gz, .ko.xz, .ko.zst) are unpacked for it and packed
again. A file named image is ./image here.

RSA with sha256 is known to every kernel that checks signatures; ECDSA and other hashes
only to those that were built with them. Strip debug information before signing: strip(1)
removes the signature too.

Exit codes: 0 all well, 1 a file could not be signed or does not verify, 2 usage, or a
key or certificate that can not be used.`,
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case len(args) == 0:
				return usageError{errors.New("sign: which modules? give one or more files")}
			case strip && verify, f.key != "" && (strip || verify):
				return usageError{errors.New("sign: give one of --key, --verify and --strip")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			action, err := f.action(strip, verify)
			if err != nil {
				return err
			}
			return runSign(cmd, o, action, args)
		},
	}
	f.register(cmd)
	cmd.Flags().BoolVar(&verify, "verify", false, "only check that each file is signed by the certificate, and was not changed since")
	cmd.Flags().BoolVar(&strip, "strip", false, "only remove the signatures")
	cmd.AddCommand(signImageCommand(o))
	return cmd
}

// signAction is what is done to the content of each file; done is what that is
// called when the content is another then, kept when it is not.
type signAction struct {
	change           func(module []byte) ([]byte, error)
	verb, done, kept string
}

func (f *signFlags) action(strip, verify bool) (signAction, error) {
	switch {
	case strip:
		return signAction{func(m []byte) ([]byte, error) { return sign.Strip(m), nil }, "strip", "stripped", "unsigned"}, nil
	case verify:
		cert, err := f.certificate()
		return signAction{func(m []byte) ([]byte, error) { return m, sign.Verify(m, cert) }, "verify", "", "verified"}, err
	}
	s, err := f.signer()
	return signAction{func(m []byte) ([]byte, error) {
		if s.Signed(m) {
			return m, nil
		}
		return s.Sign(m)
	}, "sign", "signed", "unchanged"}, err
}

// signedFile is what is said of one.
type signedFile struct {
	File   string `json:"file"`
	Result string `json:"result"` // signed, unchanged, verified, stripped, unsigned, error
	Issuer string `json:"issuer,omitempty"`
	Serial string `json:"serial,omitempty"`
	KeyID  string `json:"keyID,omitempty"`
	Hash   string `json:"hash,omitempty"`
	Error  string `json:"error,omitempty"`

	signature *sign.Signature
}

// String is the line for people.
func (s *signedFile) String() string {
	switch s.Result {
	case "signed", "verified":
		return fmt.Sprintf("%s: %s, by %s, %s", s.File, s.Result, s.signature, s.Hash)
	case "unchanged":
		return fmt.Sprintf("%s: signed already, by %s, %s", s.File, s.signature, s.Hash)
	case "stripped":
		return s.File + ": signature removed"
	default:
		return s.File + ": has no signature"
	}
}

func runSign(cmd *cobra.Command, o *options, action signAction, paths []string) error {
	results := []signedFile{}
	var errs []error
	out := &printer{w: cmd.OutOrStdout()}
	for _, path := range paths {
		if err := cmd.Context().Err(); err != nil {
			errs = append(errs, fmt.Errorf("%s %s: %w", action.verb, path, err))
			break
		}
		result, err := action.file(path)
		if err != nil {
			err = fmt.Errorf("%s %s: %w", action.verb, path, err)
			errs = append(errs, err)
			result = signedFile{File: path, Result: "error", Error: err.Error()}
		} else if o.output == "" {
			out.line("%s", &result)
		}
		results = append(results, result)
	}
	if o.output == "json" {
		errs = append(errs, writeJSON(cmd.OutOrStdout(), results))
	}
	return errors.Join(append(errs, out.err)...)
}

// file makes the change to one file.
func (a signAction) file(path string) (signedFile, error) {
	r := signedFile{File: path, Result: a.kept}
	changed, err := rewriteFile(path, func(data []byte) ([]byte, error) {
		return kmod.Rewrite(data, func(plain []byte) (module []byte, err error) {
			if module, err = a.change(plain); err == nil {
				r.signature, err = sign.Read(bytes.NewReader(module))
			}
			return module, err
		})
	})
	if err != nil {
		return r, err
	}
	if changed {
		r.Result = a.done
	}
	if s := r.signature; s != nil {
		r.Issuer, r.Serial, r.KeyID, r.Hash = s.Issuer, s.Serial, s.KeyID, s.Hash
	}
	return r, nil
}
