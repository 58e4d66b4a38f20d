// SPDX-License-Identifier: Apache-2.0

// Package credentials finds the user names, passwords and tokens for a
// registry in the files that container tools write: the dockerconfigjson of an
// image pull secret, the kubelet's config.json and the auth.json of podman,
// CRI-O and skopeo.
//
// It runs no program: credential helpers and the kubelet's credential
// providers are not asked. It tells which files want one. What is secret
// appears in no error and no printed value.
package credentials

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Credential is one way to be known to a registry.
type Credential struct {
	// Username and Password go together.
	Username, Password string
	// IdentityToken is exchanged for access tokens (OAuth2 refresh token).
	IdentityToken string
	// RegistryToken is sent as it is (bearer token).
	RegistryToken string
	// Origin says where it was found, for a person.
	Origin string
}

// String is the origin; the rest is secret.
func (c Credential) String() string { return c.Origin }

// GoString is the origin too.
func (c Credential) GoString() string { return c.Origin }

// Keyring is an ordered set of documents with credentials. nil is an empty one.
type Keyring struct {
	documents []document
	merged    bool
}

// document is a parsed one, or a file to be read when needed.
type document struct {
	file string
	doc  config
	err  error
}

// Options say where the files of the node are.
type Options struct {
	// Root is put in front of all paths.
	Root string
	// Files in the order they count; nil is DefaultFiles.
	Files []string
}

// DefaultFiles are where the kubelet, and podman, CRI-O, skopeo and docker run
// by root look.
func DefaultFiles() []string {
	return []string{
		"/var/lib/kubelet/config.json",
		"/run/containers/0/auth.json",
		"/root/.config/containers/auth.json",
		"/root/.docker/config.json",
		"/.docker/config.json",
	}
}

// Load checks the node's files; missing ones are fine. The Keyring can be used
// even when there is an error, which names each malformed file: the others
// count. It holds no content: files are read for each Lookup, since somebody
// may renew what is in them.
func Load(o Options) (*Keyring, error) {
	if o.Files == nil {
		o.Files = DefaultFiles()
	}
	k := &Keyring{}
	var problems error
	for _, file := range o.Files {
		d := document{file: filepath.Join("/", o.Root, file)}
		k.documents = append(k.documents, d)
		problems = errors.Join(problems, d.read().err)
	}
	return k, problems
}

// Parse takes a document as a Secret of type kubernetes.io/dockerconfigjson or
// kubernetes.io/dockercfg has it; origin names it for a person. The Keyring can
// be used even when there is an error: Lookup has it as a note.
func Parse(origin string, b []byte) (*Keyring, error) {
	d := document{}
	d.doc, d.err = parse(origin, b)
	return &Keyring{documents: []document{d}}, d.err
}

// Join has all of the keyrings, in order.
func Join(keyrings ...*Keyring) *Keyring {
	out := &Keyring{}
	for _, k := range keyrings {
		if k != nil {
			out.documents = append(out.documents, k.documents...)
		}
	}
	return out
}

// Merge has all of the keyrings as if they were one document: the more special
// name comes first, wherever it is.
func Merge(keyrings ...*Keyring) *Keyring {
	out := Join(keyrings...)
	out.merged = true
	return out
}

const maxFile = 4 << 20 // bytes; a Secret can not have more than 1 MiB

// read returns d with its content. A file that is not there is empty.
func (d document) read() document {
	if d.file == "" {
		return d
	}
	info, err := os.Stat(d.file)
	if err == nil && (!info.Mode().IsRegular() || info.Size() > maxFile) {
		err = fmt.Errorf("%s: no regular file of at most %d bytes", d.file, maxFile)
	}
	var b []byte
	if err == nil {
		b, err = os.ReadFile(d.file)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		d.err = err
	default:
		d.doc, d.err = parse(d.file, b)
	}
	return d
}

// Found is the answer to a Lookup.
type Found struct {
	// Credentials in the order to try them.
	Credentials []Credential
	// Notes tell what could not be used: files that are malformed, helpers
	// that are not run.
	Notes []string
}

// Lookup finds the credentials for a repository of host ("registry.example" or
// with ":port"). As in the kubelet, all that match are to be tried; within one
// document longer names come first and those with "*" last.
func (k *Keyring) Lookup(host, repository string) Found {
	var out Found
	if k == nil {
		return out
	}
	var matches []entry
	for _, d := range k.documents {
		d = d.read()
		if d.err != nil {
			out.Notes = append(out.Notes, strings.ReplaceAll(d.err.Error(), "\n", "; "))
		}
		for _, e := range d.doc.entries {
			if e.matches(host, repository) {
				matches = append(matches, e)
			}
		}
		out.Notes = append(out.Notes, d.doc.helpersFor(host)...)
	}
	if k.merged {
		slices.SortStableFunc(matches, entry.compare)
	}
	for _, e := range matches {
		if !slices.ContainsFunc(out.Credentials, e.cred.same) {
			out.Credentials = append(out.Credentials, e.cred)
		}
	}
	return out
}

// same compares all but the origin.
func (c Credential) same(o Credential) bool {
	o.Origin = c.Origin
	return c == o
}

// Warnings tell of each document what will not be used, whatever is looked for.
func (k *Keyring) Warnings() []string {
	var out []string
	if k == nil {
		return nil
	}
	for _, d := range k.documents {
		d = d.read()
		out = append(out, d.doc.helpersFor("")...)
	}
	return out
}

// hub is the one name under which all those of Docker Hub are compared.
func hub(host string) string {
	switch host = strings.ToLower(host); host {
	case "docker.io", "registry-1.docker.io", "registry.hub.docker.com":
		return "index.docker.io"
	}
	return host
}
