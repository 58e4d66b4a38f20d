// SPDX-License-Identifier: Apache-2.0

package sign

import (
	"errors"
	"fmt"
	"io"
	"os"
)

// Signature is what the last signature of a module file says about itself, and
// what the kernel's answer depends on. Nothing of it was verified. When a CMS has
// several signers, which sign-file makes none of, it is about the first.
type Signature struct {
	// Hash is "sha256", ...; the object identifier of one not known here.
	Hash string
	// Algorithm of the signer's key: "rsaEncryption", "ecdsa-with-SHA256", ...; the
	// object identifier of any other, with which the kernel says ENOPKG.
	Algorithm string
	// Issuer is who issued the signer's certificate, in the words the kernel has
	// for keys: organisation and common name. RawIssuer and Serial together name
	// the certificate.
	Issuer    string
	RawIssuer []byte // DER
	Serial    string // lower-case hex, no leading zeros
	KeyID     string // lower-case hex: the subject key identifier, if the signer is named by that instead
	// Attributes says that what is signed are attributes that have the digest of the
	// module, not that digest itself: refused by kernels before 7.0 whatever the policy.
	Attributes bool
	// Attached says that the CMS has content of its own: refused whatever the policy.
	Attached bool
	// Certificates says that there are certificates in it. Those can lead the kernel
	// from the signer to a key it trusts.
	Certificates bool
	// Problem says why the kernel could not read it, "" when it could: it is then
	// refused whatever the policy (kernel/module/signing.c).
	Problem string
}

// maxCMS is what the kernel's parser reads at most (lib/asn1_decoder.c: EMSGSIZE).
const maxCMS = 65535

// Read reads the signature at the end of a module file, nil when there is none.
// An error is one of reading; a signature that is damaged has a Problem. The
// reader has to be one that knows its size: an *os.File, a *bytes.Reader, an
// *io.SectionReader.
func Read(r io.ReaderAt) (*Signature, error) {
	e, err := readEnding(r)
	if e == nil {
		return nil, err
	}
	return e.signature(), nil
}

// ending is the end of a signed module file.
type ending struct {
	size    int64 // of the file
	tail    tail
	message *message // nil when there is a problem
	problem string
}

// readEnding gives nil for a file without a signature.
func readEnding(r io.ReaderAt) (*ending, error) {
	size, err := sizeOf(r)
	if err != nil {
		return nil, err
	}
	end, err := readEnd(r, size, 0, int64(tailSize))
	if err != nil {
		return nil, err
	}
	t, ok := parseTrailer(end)
	if !ok {
		return nil, nil
	}
	e := &ending{size: size, tail: t, problem: t.problem(size)}
	if e.problem != "" {
		return e, nil
	}
	der, err := readEnd(r, size, int64(tailSize), t.length())
	if err != nil {
		return nil, err
	}
	if e.message, err = parse(der); err != nil {
		e.problem = err.Error()
	}
	return e, nil
}

func (e *ending) signature() *Signature {
	if e.problem != "" {
		return &Signature{Problem: e.problem}
	}
	s := e.message.signers[0].Signature
	return &s
}

// readEnd reads up to length bytes that end so far before the end of the file.
func readEnd(r io.ReaderAt, size, before, length int64) ([]byte, error) {
	length = min(length, size-before)
	b := make([]byte, length)
	if _, err := io.ReadFull(io.NewSectionReader(r, size-before-length, length), b); err != nil {
		return nil, fmt.Errorf("read signature: %w", err)
	}
	return b, nil
}

// sizeOf is the number of bytes behind a reader of a whole file.
func sizeOf(r io.ReaderAt) (int64, error) {
	switch r := r.(type) {
	case interface{ Size() int64 }:
		return r.Size(), nil
	case interface{ Stat() (os.FileInfo, error) }:
		st, err := r.Stat()
		if err != nil {
			return 0, fmt.Errorf("read size: %w", err)
		}
		return st.Size(), nil
	}
	return 0, errors.New("read size: unknown kind of reader")
}
