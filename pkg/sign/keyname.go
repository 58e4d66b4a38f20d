// SPDX-License-Identifier: Apache-2.0

package sign

import (
	"encoding/asn1"
	"strings"
)

// KeyName is the name the kernel makes of a distinguished name in DER for the
// description of a key in /proc/keys (crypto/asymmetric_keys/x509_cert_parser.c:
// x509_fabricate_name): "Organisation: Common Name", the common name alone when it begins
// like the organisation, else the mail address. "" when there is neither.
func KeyName(der []byte) string {
	sets, err := elements(der, asn1.TagSequence)
	if err != nil {
		return ""
	}
	var organisation, common, mail string
	for _, set := range sets {
		attributes, err := elements(set.FullBytes, asn1.TagSet)
		if err != nil {
			return ""
		}
		for _, a := range attributes {
			pair, err := elements(a.FullBytes, asn1.TagSequence)
			if err != nil || len(pair) != 2 {
				continue
			}
			var oid asn1.ObjectIdentifier
			if _, err := asn1.Unmarshal(pair[0].FullBytes, &oid); err != nil {
				continue
			}
			switch oid.String() {
			case "2.5.4.3":
				common = string(pair[1].Bytes)
			case "2.5.4.10":
				organisation = string(pair[1].Bytes)
			case "1.2.840.113549.1.9.1":
				mail = string(pair[1].Bytes)
			}
		}
	}
	switch {
	case common != "" && organisation != "":
		if strings.HasPrefix(common, organisation) ||
			len(common) >= 7 && len(organisation) >= 7 && common[:7] == organisation[:7] {
			return common
		}
		return organisation + ": " + common
	case common != "":
		return common
	case organisation != "":
		return organisation
	}
	return mail
}
