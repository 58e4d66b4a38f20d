// SPDX-License-Identifier: Apache-2.0

// Package record seals JSON objects that are kept in files, so that whoever reads
// one back knows whether it is what was written: a bit that has changed can leave
// it valid JSON that says something else. A sealed object is a JSON object still.
// It reads and writes no file itself.
package record

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
)

// ErrDamaged is content that is not what was written.
var ErrDamaged = errors.New("damaged")

// The last field of a sealed object is the digest of the object without it:
//
//	{"a":1,"sum":"…64 digits…"}
const (
	before  = `,"sum":"`
	after   = `"}`
	sealLen = len(before) + 2*sha256.Size + len(after)
)

// Seal returns a JSON object, which must have a field, with its digest as its last
// one.
func Seal(object []byte) []byte {
	body := bytes.TrimRight(bytes.TrimSuffix(bytes.TrimSpace(object), []byte("}")), " \t\n")
	sum := sha256.Sum256(append(bytes.Clone(body), '}'))
	out := append(bytes.Clone(body), before...)
	out = hex.AppendEncode(out, sum[:])
	return append(out, after...)
}

// Open returns the object that was sealed; ErrDamaged when it is no sealed object.
// White space around it is left out.
func Open(sealed []byte) ([]byte, error) {
	sealed = bytes.TrimSpace(sealed)
	at := len(sealed) - sealLen
	if at < 1 || !bytes.HasPrefix(sealed[at:], []byte(before)) || !bytes.HasSuffix(sealed, []byte(after)) {
		return nil, fmt.Errorf("%w: it does not end with a digest of itself", ErrDamaged)
	}
	object := append(bytes.Clone(sealed[:at]), '}')
	sum := sha256.Sum256(object)
	if hex.EncodeToString(sum[:]) != string(sealed[at+len(before):len(sealed)-len(after)]) {
		return nil, fmt.Errorf("%w: it is not what its digest is of", ErrDamaged)
	}
	return object, nil
}
