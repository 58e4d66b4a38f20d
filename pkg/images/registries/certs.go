// SPDX-License-Identifier: Apache-2.0

package registries

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// KeyPair is a certificate and its key, both PEM. Key is empty when the file of
// the certificate has both.
type KeyPair struct{ Cert, Key string }

// TLS reads the certificates of e. The error names the file.
func (e *Endpoint) TLS() (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: e.SkipVerify}
	if len(e.CAs) > 0 {
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool() // a node may well have none
		}
		for _, file := range e.CAs {
			b, err := readFile(file)
			if err != nil {
				return nil, fmt.Errorf("read CA certificate: %w", err)
			}
			if !pool.AppendCertsFromPEM(b) {
				return nil, fmt.Errorf("%s: no PEM certificate in it", file)
			}
		}
		c.RootCAs = pool
	}
	for _, p := range e.Clients {
		if p.Key == "" {
			p.Key = p.Cert
		}
		cert, err := tls.LoadX509KeyPair(p.Cert, p.Key)
		if err != nil {
			return nil, fmt.Errorf("client certificate %s, key %s: %w", p.Cert, p.Key, err)
		}
		c.Certificates = append(c.Certificates, cert)
	}
	return c, nil
}

// addCerts adds the certificates kept for the host of e, unless hosts.toml named
// some: those of containerd's directory without a hosts.toml, else those of the
// first of the other directories that has the host.
func (c *Config) addCerts(e *Endpoint) error {
	if len(e.CAs) > 0 || len(e.Clients) > 0 {
		return nil
	}
	hosts := []string{e.URL.Host}
	if e.URL.Host == dialed("docker.io") {
		hosts = append(hosts, "docker.io")
	}
	for _, host := range hosts {
		dirs := []string{c.path(c.o.Containerd, underscored(host)), c.path(c.o.Containerd, host)}
		for _, d := range c.o.Certs {
			dirs = append(dirs, c.path(d, host))
		}
		for _, dir := range dirs {
			found, err := e.addDir(dir)
			if err != nil || found {
				return err
			}
		}
	}
	return nil
}

// addDir reads a directory in the way of Docker: NAME.crt is a CA certificate,
// NAME.cert with NAME.key one to show to the server. found is false without any.
func (e *Endpoint) addDir(dir string) (found bool, err error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	for _, f := range entries {
		file := filepath.Join(dir, f.Name())
		switch filepath.Ext(file) {
		case ".crt":
			e.CAs = append(e.CAs, file)
		case ".cert":
			key := strings.TrimSuffix(file, ".cert") + ".key"
			if _, err := os.Stat(key); err != nil {
				return false, fmt.Errorf("client certificate %s has no key: %w", file, err)
			}
			e.Clients = append(e.Clients, KeyPair{file, key})
		}
	}
	return len(e.CAs) > 0 || len(e.Clients) > 0, nil
}

const maxFile = 4 << 20 // bytes of a file of configuration or certificates

// readFile reads a file that is not absurdly large.
func readFile(file string) ([]byte, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxFile {
		return nil, fmt.Errorf("%s: no regular file of at most %d bytes", file, maxFile)
	}
	return os.ReadFile(file)
}
