// SPDX-License-Identifier: Apache-2.0

package ovmf

import (
	"bytes"
	"crypto/x509"
	"debug/pe"
	"encoding/asn1"
	"encoding/binary"
	"fmt"
)

// SignatureLists are EFI_SIGNATURE_LISTs with one certificate each (UEFI 2.10, 32.4.1), the content of PK, KEK, db and
// MokList. The owner is said to be us.
func SignatureLists(certificates ...*x509.Certificate) []byte {
	le := binary.LittleEndian
	kind := guid("a5c059a1-94e4-4aa7-87b5-ab155c2bf072") // EFI_CERT_X509_GUID
	owner := guid("6b6d6d64-0000-4000-8000-000000000001")
	var out []byte
	for _, c := range certificates {
		out = append(out, kind[:]...)
		out = le.AppendUint32(out, uint32(28+16+len(c.Raw))) // the list
		out = le.AppendUint32(out, 0)                        // its header
		out = le.AppendUint32(out, uint32(16+len(c.Raw)))    // an entry
		out = append(append(out, owner[:]...), c.Raw...)
	}
	return out
}

// SignersOf gives the certificates that come with the signatures of a program for UEFI (Authenticode): those firmware
// has to have one of to start it.
func SignersOf(program []byte) ([]*x509.Certificate, error) {
	f, err := pe.NewFile(bytes.NewReader(program))
	if err != nil {
		return nil, fmt.Errorf("read program: %w", err)
	}
	header, ok := f.OptionalHeader.(*pe.OptionalHeader64)
	if !ok {
		return nil, fmt.Errorf("read program: %w: not of a 64-bit machine", ErrFormat)
	}
	table := header.DataDirectory[pe.IMAGE_DIRECTORY_ENTRY_SECURITY]
	if uint64(table.VirtualAddress)+uint64(table.Size) > uint64(len(program)) {
		return nil, fmt.Errorf("read program: %w: its signatures are cut short", ErrFormat)
	}
	var list []*x509.Certificate
	const head = 8 // WIN_CERTIFICATE: length, revision, type
	for b := program[table.VirtualAddress:][:table.Size]; len(b) >= head; {
		n := binary.LittleEndian.Uint32(b)
		if n < head || uint64(n) > uint64(len(b)) {
			break
		}
		found, err := certificatesIn(b[head:n])
		if err != nil {
			return nil, fmt.Errorf("read signature of program: %w", err)
		}
		list = append(list, found...)
		b = b[min(len(b), int(n+7)&^7):]
	}
	return list, nil
}

// certificatesIn reads the certificates of a SignedData (RFC 5652, 5.1); padding may follow it.
func certificatesIn(der []byte) ([]*x509.Certificate, error) {
	var message struct {
		Type    asn1.ObjectIdentifier
		Content struct {
			Version      int
			Digests      asn1.RawValue
			Content      asn1.RawValue
			Certificates asn1.RawValue `asn1:"optional,tag:0"`
			Signers      asn1.RawValue
		} `asn1:"explicit,tag:0"`
	}
	if _, err := asn1.Unmarshal(der, &message); err != nil {
		return nil, err
	}
	return x509.ParseCertificates(message.Content.Certificates.Bytes)
}
