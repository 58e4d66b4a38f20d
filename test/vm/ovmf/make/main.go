// SPDX-License-Identifier: Apache-2.0

// Command make makes what VMs of the lab boot with where modules have to be signed: keys with certificates, and the
// variables of UEFI firmware that trusts some of them.
//
//	make OVMF_VARS SHIM OUT
//
// OUT/keys/NAME.key and NAME.crt are PEM; OUT/secureboot.fd has the trusted ones in db, OUT/mok.fd those of SHIM's
// signers in db and the trusted ones in MokList, as if they had been enrolled.
package main

import (
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"

	"github.com/kmm-node/kmmd/test/vm/ovmf"
)

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: make OVMF_VARS SHIM OUT")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, "make:", err)
		os.Exit(1)
	}
}

func run(vars, shim, out string) error {
	owner, trusted, err := makeKeys(filepath.Join(out, "keys"))
	if err != nil {
		return err
	}
	program, err := os.ReadFile(shim)
	if err != nil {
		return err
	}
	signers, err := ovmf.SignersOf(program)
	if err != nil {
		return fmt.Errorf("%s: %w", shim, err)
	}
	empty, err := os.ReadFile(vars)
	if err != nil {
		return err
	}
	if err := writeStore(empty, filepath.Join(out, "secureboot.fd"), owner, trusted, nil); err != nil {
		return err
	}
	return writeStore(empty, filepath.Join(out, "mok.fd"), owner, signers, trusted)
}

// writeStore turns Secure Boot on, with a platform key of ours.
func writeStore(empty []byte, path string, owner *x509.Certificate, db, mok []*x509.Certificate) error {
	s, err := ovmf.Parse(empty)
	if err != nil {
		return err
	}
	const keys = ovmf.NonVolatile | ovmf.BootService | ovmf.Runtime | ovmf.Authenticated
	s.Set(ovmf.Variable{Name: "PK", Vendor: ovmf.Global(), Attributes: keys, Data: ovmf.SignatureLists(owner)})
	s.Set(ovmf.Variable{Name: "KEK", Vendor: ovmf.Global(), Attributes: keys, Data: ovmf.SignatureLists(owner)})
	s.Set(ovmf.Variable{Name: "db", Vendor: ovmf.SecurityDatabase(), Attributes: keys, Data: ovmf.SignatureLists(db...)})
	s.Set(ovmf.Variable{Name: "SecureBootEnable", Vendor: ovmf.SecureBootEnable(), Attributes: ovmf.NonVolatile | ovmf.BootService, Data: []byte{1}})
	if len(mok) > 0 {
		s.Set(ovmf.Variable{Name: "MokList", Vendor: ovmf.Shim(), Attributes: ovmf.NonVolatile | ovmf.BootService, Data: ovmf.SignatureLists(mok...)})
	}
	image, err := s.Bytes()
	if err != nil {
		return err
	}
	return os.WriteFile(path, image, 0o644)
}
