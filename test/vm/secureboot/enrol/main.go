// SPDX-License-Identifier: Apache-2.0

// Command enrol has firmware trust one more key, as shim does when somebody at the
// console confirms it:
//
//	enrol VARIABLES CERTIFICATE OUT
//
// VARIABLES is a file like .lab/boot/mok.fd, CERTIFICATE is DER, OUT is the former
// with the latter in MokList.
package main

import (
	"crypto/x509"
	"errors"
	"fmt"
	"os"

	"github.com/kmm-node/kmmd/test/vm/ovmf"
)

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: enrol VARIABLES CERTIFICATE OUT")
		os.Exit(2)
	}
	if err := enrol(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, "enrol:", err)
		os.Exit(1)
	}
}

func enrol(variables, certificate, out string) error {
	image, err := os.ReadFile(variables)
	if err != nil {
		return err
	}
	store, err := ovmf.Parse(image)
	if err != nil {
		return fmt.Errorf("%s: %w", variables, err)
	}
	der, err := os.ReadFile(certificate)
	if err != nil {
		return err
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return fmt.Errorf("%s: %w", certificate, err)
	}
	for _, v := range store.Variables {
		if v.Name != "MokList" || v.Vendor != ovmf.Shim() {
			continue
		}
		v.Data = append(v.Data, ovmf.SignatureLists(c)...)
		store.Set(v)
		if image, err = store.Bytes(); err != nil {
			return err
		}
		return os.WriteFile(out, image, 0o644)
	}
	return errors.New(variables + " has no MokList")
}
