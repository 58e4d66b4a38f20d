// SPDX-License-Identifier: Apache-2.0

// Package registries says where an image is to be asked for on this node: it
// reads what the container runtimes of the node read, containerd's hosts.toml,
// the registries.conf of CRI-O and podman, and the certificates beside them and
// in Docker's directory, and makes a list of endpoints out of it: mirrors
// first, then the registry itself.
//
// It talks to no registry, knows no credentials, and never writes.
package registries

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// ErrBlocked is an image that registries.conf forbids to pull.
var ErrBlocked = errors.New("blocked by the node's configuration")

// Options say where the files are. Empty fields are the usual places.
type Options struct {
	// Root is put in front of all other paths, and of absolute paths in the files.
	Root string
	// Containerd has one directory per host, with hosts.toml or certificates:
	// /etc/containerd/certs.d.
	Containerd string
	// Conf is /etc/containers/registries.conf. Files *.conf in a directory of the
	// same name with ".d" added are read after it, in alphabetical order.
	Conf string
	// Certs are directories with one directory of certificates per host, searched
	// in this order: /etc/containers/certs.d, /etc/docker/certs.d.
	Certs []string
}

// Config is the configuration of a node. nil is that of a node without any. It
// holds no content: files are read whenever they are needed, as the runtimes
// do, so a change counts at once.
type Config struct{ o Options }

// Load checks all files that are there; missing ones are fine. The Config can be
// used even when there is an error, which names each malformed file: only the
// hosts such a file is about fail then, when they are asked for.
func Load(o Options) (*Config, error) {
	if o.Containerd == "" {
		o.Containerd = "/etc/containerd/certs.d"
	}
	if o.Conf == "" {
		o.Conf = "/etc/containers/registries.conf"
	}
	if o.Certs == nil {
		o.Certs = []string{"/etc/containers/certs.d", "/etc/docker/certs.d"}
	}
	c := &Config{o}
	_, problems := c.readConf()
	hosts, err := os.ReadDir(c.path(o.Containerd))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		problems = errors.Join(problems, err)
	}
	for _, h := range hosts {
		_, _, err := c.readHosts(c.path(o.Containerd, h.Name()), Reference{Host: "registry.invalid"})
		problems = errors.Join(problems, err)
	}
	return c, problems
}

func (c *Config) path(elem ...string) string {
	return filepath.Join(append([]string{"/", c.o.Root}, elem...)...)
}

// Reference is an image, taken apart.
type Reference struct {
	Host       string // with the port, if it has one; "docker.io" for Docker Hub
	Repository string
	Tag        string // empty when there is a digest
	Digest     string // "sha256:…", or empty
	// Insecure allows plain http to Host, SkipVerify takes any certificate of it;
	// neither counts for mirrors elsewhere.
	Insecure, SkipVerify bool
}

// Endpoint is one place to ask.
type Endpoint struct {
	// URL is scheme, host and the path below which manifests and blobs are: most
	// often "/v2".
	URL url.URL
	// Repository is the name of the repository there.
	Repository string
	// Namespace, if not empty, is the host to be named in the parameter "ns" of
	// each request: a mirror of several registries needs it.
	Namespace string
	// Resolve says whether it may be asked what a tag stands for, Pull whether
	// it may be asked for content by digest.
	Resolve, Pull bool
	// PlainHTTP says that requests without TLS may be sent for this endpoint.
	PlainHTTP bool
	// Fallback is an endpoint to be asked only when the one before it gave no
	// answer: the same without TLS.
	Fallback bool
	// SkipVerify takes any certificate.
	SkipVerify bool
	// Header is to be sent to URL's host with each request.
	Header map[string][]string
	// CAs are files with certificates to trust in addition to the system's.
	CAs []string
	// Clients are certificates to show to the server.
	Clients []KeyPair
	// DialTimeout is for one connection; 0 is for the caller to choose.
	DialTimeout time.Duration
	// Origin is the file that names the endpoint; empty for the registry as the
	// reference names it.
	Origin string
}

// String is the URL.
func (e *Endpoint) String() string { return e.URL.String() }

// Endpoints are where ref is to be asked for, in order; there is at least one.
// The error is ErrBlocked, or names a malformed file.
func (c *Config) Endpoints(ref Reference) ([]Endpoint, error) {
	if ref.Host == "index.docker.io" || ref.Host == "registry-1.docker.io" {
		ref.Host = "docker.io"
	}
	if c == nil {
		return ref.itself(), nil
	}
	rules, err := c.readConf()
	if err != nil {
		return nil, err
	}
	r, rest := choose(rules, ref)
	if r != nil && r.Blocked {
		return nil, fmt.Errorf("%w: %s: registry %q has blocked = true", ErrBlocked, r.file, r.Prefix)
	}
	list, found, err := c.readHosts(c.hostDir(ref.Host), ref)
	if err != nil {
		return nil, err
	}
	if !found {
		list = ref.itself()
		if r != nil {
			list = r.endpoints(ref, rest)
		}
	}
	for i := range list {
		if err := c.addCerts(&list[i]); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// dialed is the host that serves what is named by host.
func dialed(host string) string {
	if host == "docker.io" {
		return "registry-1.docker.io"
	}
	return host
}

// itself is the registry ref names, with nothing configured for it.
func (ref Reference) itself() []Endpoint {
	e := Endpoint{
		URL:        url.URL{Scheme: "https", Host: dialed(ref.Host), Path: "/v2"},
		Repository: ref.Repository, Resolve: true, Pull: true,
	}
	return ref.withRequest(e)
}

// withRequest adds to the endpoint of ref's own host what ref allows.
func (ref Reference) withRequest(e Endpoint) []Endpoint {
	if e.URL.Host == dialed(ref.Host) {
		e.SkipVerify = e.SkipVerify || ref.SkipVerify
		if ref.Insecure {
			return withFallback(e)
		}
	}
	return []Endpoint{e}
}

// withFallback adds the endpoint without TLS to the one with it.
func withFallback(e Endpoint) []Endpoint {
	e.PlainHTTP = true
	if e.URL.Scheme == "http" {
		return []Endpoint{e}
	}
	plain := e
	plain.URL.Scheme, plain.Fallback = "http", true
	return []Endpoint{e, plain}
}

// sameHost compares names of hosts, which know no case.
func sameHost(a, b string) bool { return strings.EqualFold(a, b) }
