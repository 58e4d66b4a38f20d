// SPDX-License-Identifier: Apache-2.0

package web

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"os"
	"sync"
	"time"
)

// Certificate serves with a certificate out of files, in PEM, which are read again
// when they have changed. Without files it makes one that nobody has signed, good
// for a year: the connection is secret then, but who answers is not proved.
func Certificate(certFile, keyFile string, names ...string) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if certFile == "" && keyFile == "" {
		own, err := selfSigned(names)
		if err != nil {
			return nil, err
		}
		config.Certificates = []tls.Certificate{own}
		return config, nil
	}
	f := &files{cert: certFile, key: keyFile}
	if _, err := f.get(nil); err != nil {
		return nil, err
	}
	config.GetCertificate = f.get
	return config, nil
}

// files are a certificate and its key on disk.
type files struct {
	cert, key string

	mu     sync.Mutex // guards what follows
	last   *tls.Certificate
	looked time.Time
}

// lookAgain is how often the files are read.
const lookAgain = 10 * time.Second

// get is the certificate. While the files can not be read, as when they are being
// replaced, it is the last one.
func (f *files) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.last != nil && time.Since(f.looked) < lookAgain {
		return f.last, nil
	}
	next, err := tls.LoadX509KeyPair(f.cert, f.key)
	switch {
	case err == nil:
		f.last, f.looked = &next, time.Now()
	case f.last == nil:
		return nil, fmt.Errorf("read certificate %s and key %s: %w", f.cert, f.key, err)
	default:
		f.looked = time.Now()
	}
	return f.last, nil
}

func selfSigned(names []string) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make key: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make certificate: %w", err)
	}
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: host}, DNSNames: append([]string{host, "localhost"}, names...),
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}
