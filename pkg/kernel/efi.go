// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"bytes"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"os"
	"slices"
)

// Vendors of UEFI variables (include/linux/efi.h): the specification's own, its security databases, shim.
const (
	efiGlobal   = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
	efiSecurity = "d719b2cb-3d3a-4596-a3bc-dad00e67656f"
	efiShim     = "605dab50-e046-4300-abb6-3dd810dd8b23"

	efiAttributes   = 4 // bytes before the value in a file of efivarfs
	maxEFIVariable  = 1 << 20
	maxCertificates = 1024
)

// Certificate is one that the firmware (db) or shim (MOK) trusts. Whether the kernel takes modules signed by it depends on
// the kernel, and on the keyring that it put it into.
type Certificate struct {
	Source string // "db" or "MOK"
	*x509.Certificate
}

// certificates reads those of db and of MOK, nil when there are none or no UEFI.
func (h *Host) certificates() []Certificate {
	list := parseSignatureLists("db", h.efiVariable("db-"+efiSecurity))
	return append(list, parseSignatureLists("MOK", h.mok())...)
}

// mok is what shim hands over: in a table, or in as many variables as it takes, MokListRT, MokListRT1 and so on. The table
// is empty, and no error, for who has no CAP_SYS_ADMIN (drivers/firmware/efi/mokvar-table.c, Linux 5.10).
func (h *Host) mok() []byte {
	const most = 64
	all, err := os.ReadFile(h.path("sys/firmware/efi/mok-variables/MokListRT"))
	if err == nil && len(all) > 0 {
		return all
	}
	all = h.efiVariable("MokListRT-" + efiShim)
	for i := 1; i < most; i++ {
		more := h.efiVariable(fmt.Sprintf("MokListRT%d-%s", i, efiShim))
		if more == nil {
			break
		}
		all = append(all, more...)
	}
	return all
}

// efiVariable gives the value of a variable, nil when it can not be read.
func (h *Host) efiVariable(name string) []byte {
	b, err := os.ReadFile(h.path("sys/firmware/efi/efivars", name))
	if err != nil || len(b) < efiAttributes || len(b) > maxEFIVariable {
		return nil
	}
	return b[efiAttributes:]
}

func (h *Host) efiByte(name string) (value byte, ok bool) {
	b := h.efiVariable(name)
	if len(b) != 1 {
		return 0, false
	}
	return b[0], true
}

// parseSignatureLists takes the X.509 certificates out of EFI_SIGNATURE_LISTs (UEFI 2.10, 32.4.1): type, size of the list,
// of its header, of each entry; an entry is its owner's GUID and the certificate.
func parseSignatureLists(source string, data []byte) []Certificate {
	const header, guid = 28, 16
	// EFI_CERT_X509_GUID a5c059a1-94e4-4aa7-87b5-ab155c2bf072
	x509GUID := []byte{0xa1, 0x59, 0xc0, 0xa5, 0xe4, 0x94, 0xa7, 0x4a, 0x87, 0xb5, 0xab, 0x15, 0x5c, 0x2b, 0xf0, 0x72}
	le := binary.LittleEndian
	var list []Certificate
	for len(data) >= header && len(list) < maxCertificates {
		size, skip, entry := uint64(le.Uint32(data[16:])), uint64(le.Uint32(data[20:])), uint64(le.Uint32(data[24:]))
		if size < header || size > uint64(len(data)) {
			break
		}
		isX509 := bytes.Equal(data[:guid], x509GUID)
		if entry > guid && header+skip <= size && isX509 {
			for b := range slices.Chunk(data[header+skip:size], int(entry)) {
				if uint64(len(b)) == entry {
					list = appendCertificate(list, source, b[guid:])
				}
			}
		}
		data = data[size:]
	}
	return list
}

func appendCertificate(list []Certificate, source string, der []byte) []Certificate {
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return list
	}
	return append(list, Certificate{source, c})
}
