// SPDX-License-Identifier: Apache-2.0

package credentials

import (
	"encoding/base64"
	"encoding/json"
	"errors"
)

// Document writes all credentials into one document, as the data of a Secret of
// type kubernetes.io/dockerconfigjson is, for a tool that reads only one. Of those
// with the same name the first counts. Helpers are left out: Warnings tells of them.
// An error names each document that can not be read, and there is no result then.
func (k *Keyring) Document() ([]byte, error) {
	auths := map[string]authEntry{}
	var problems error
	if k != nil {
		for _, d := range k.documents {
			d = d.read()
			problems = errors.Join(problems, d.err)
			for _, e := range d.doc.entries {
				if _, ok := auths[e.key]; !ok {
					auths[e.key] = e.cred.auth()
				}
			}
		}
	}
	if problems != nil {
		return nil, problems
	}
	return json.Marshal(map[string]any{"auths": auths})
}

// auth is the form every tool reads.
func (c Credential) auth() authEntry {
	a := authEntry{IdentityToken: c.IdentityToken, RegistryToken: c.RegistryToken}
	if c.Username != "" || c.Password != "" {
		a.Auth = base64.StdEncoding.EncodeToString([]byte(c.Username + ":" + c.Password))
	}
	return a
}
