// SPDX-License-Identifier: Apache-2.0

package cosign

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// ErrSignature is a signature that does not say that one of the keys has signed
// the image; the message says why not.
var ErrSignature = errors.New("no signature of the image by a known key")

// Where signatures are found beside an image.
const (
	// TypeSimple is the media type of a layer that is a classic payload; the
	// signature is in its annotation AnnotationSignature, in base64.
	TypeSimple = "application/vnd.dev.cosign.simplesigning.v1+json"
	// AnnotationSignature is that of a classic payload.
	AnnotationSignature = "dev.cosignproject.cosign/signature"
	// TypeBundle is what the media types of all versions of a sigstore bundle
	// begin with: of an artifact, its layer and the document in it.
	TypeBundle = "application/vnd.dev.sigstore.bundle"
	// AnnotationPredicate says what a bundle is about, before it is fetched.
	AnnotationPredicate = "dev.sigstore.bundle.predicateType"
	// PredicateSign is what a signature is about; anything else is an
	// attestation, which says something else of the image than "take it".
	PredicateSign = "https://sigstore.dev/cosign/sign/v1"
)

// Tag is where a registry has the classic signatures of an image.
func Tag(digest string) string { return strings.Replace(digest, ":", "-", 1) + ".sig" }

// Image is what is signed.
type Image struct {
	Digest   string // "sha256:…", of the manifest or index
	Manifest []byte // the content of that digest
}

// Signature is one signature as it was found: either Bundle is set or the other
// two.
type Signature struct {
	Payload   []byte `json:"payload,omitempty"`   // what was signed
	Signature []byte `json:"signature,omitempty"` // of Payload
	Bundle    []byte `json:"bundle,omitempty"`    // a sigstore bundle, JSON
}

// Verify returns the key that has signed i, or ErrSignature. It does not ask
// when that was: a key vouches for all it has ever signed until it is taken
// out of keys.
func (s Signature) Verify(i Image, keys []Key) (Key, error) {
	sum := sha256.Sum256(i.Manifest)
	if i.Digest != "sha256:"+hex.EncodeToString(sum[:]) {
		return Key{}, fmt.Errorf("%w: the manifest is not that of %s", ErrSignature, i.Digest)
	}
	k, err := s.verify(i, keys)
	if err != nil {
		return Key{}, fmt.Errorf("%w: %w", ErrSignature, err)
	}
	return k, nil
}

func (s Signature) verify(i Image, keys []Key) (Key, error) {
	if len(s.Bundle) > 0 {
		return verifyBundle(s.Bundle, i, keys)
	}
	k, ok := signer(keys, func(k Key) bool { return k.verifies(s.Payload, s.Signature) })
	if !ok {
		return Key{}, errOtherKey
	}
	return k, checkPayload(s.Payload, i)
}

// errOtherKey is most often right.
var errOtherKey = errors.New("it was made with another key")

// signer returns the first key that did it.
func signer(keys []Key, did func(Key) bool) (Key, bool) {
	for _, k := range keys {
		if did(k) {
			return k, true
		}
	}
	return Key{}, false
}

// checkPayload reads what a key has signed; the name in it is not compared,
// since an image keeps its signatures when it is copied to a mirror. In the
// spelling of cosign:
//
//	{"critical":{"identity":{"docker-reference":"registry.example/kmod"},
//	 "image":{"docker-manifest-digest":"sha256:…"},"type":"cosign container image signature"},"optional":null}
func checkPayload(payload []byte, i Image) error {
	var p struct {
		Critical struct {
			Type  string `json:"type"`
			Image struct {
				Digest string `json:"docker-manifest-digest"`
			} `json:"image"`
		} `json:"critical"`
	}
	if err := json.Unmarshal(payload, &p); err != nil {
		return fmt.Errorf("what was signed is no claim about an image: %w", err)
	}
	if p.Critical.Type != "cosign container image signature" {
		return fmt.Errorf("what was signed is a %q", p.Critical.Type)
	}
	if p.Critical.Image.Digest != i.Digest {
		return fmt.Errorf("it is of the image %s", p.Critical.Image.Digest)
	}
	return nil
}
