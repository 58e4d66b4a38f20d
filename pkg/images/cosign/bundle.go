// SPDX-License-Identifier: Apache-2.0

package cosign

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// bundle is what is read of a sigstore bundle (protobuf-specs,
// sigstore_bundle.proto, as JSON). The log entries and time stamps in it prove
// nothing that the key does not.
type bundle struct {
	MediaType string `json:"mediaType"`
	Material  struct {
		PublicKey *struct {
			Hint string `json:"hint"`
		} `json:"publicKey"`
	} `json:"verificationMaterial"`
	Message *struct {
		Signature []byte `json:"signature"`
	} `json:"messageSignature"`
	Envelope *envelope `json:"dsseEnvelope"`
}

// envelope is a signed document (secure-systems-lab/dsse, envelope.md).
type envelope struct {
	Payload     []byte `json:"payload"`
	PayloadType string `json:"payloadType"`
	Signatures  []struct {
		Sig []byte `json:"sig"`
	} `json:"signatures"`
}

// maxEnvelopeSignatures is what one envelope may have; cosign writes one.
const maxEnvelopeSignatures = 8

func verifyBundle(raw []byte, i Image, keys []Key) (Key, error) {
	var b bundle
	if err := json.Unmarshal(raw, &b); err != nil {
		return Key{}, fmt.Errorf("it is no sigstore bundle: %w", err)
	}
	switch {
	case !strings.HasPrefix(b.MediaType, TypeBundle):
		return Key{}, fmt.Errorf("it is of type %q, no sigstore bundle", b.MediaType)
	case b.Material.PublicKey == nil:
		return Key{}, errors.New("it was made without a key (\"keyless\"): sign with cosign sign --key")
	case (b.Message == nil) == (b.Envelope == nil):
		return Key{}, errors.New("a bundle needs a message signature or an envelope, and not both")
	case b.Message != nil:
		return verifyMessage(b.Message.Signature, i, keys)
	}
	return b.Envelope.verify(i, keys)
}

// verifyMessage is for a signature of the manifest itself.
func verifyMessage(signature []byte, i Image, keys []Key) (Key, error) {
	k, ok := signer(keys, func(k Key) bool { return k.verifiesPrehashed(i.Manifest, signature) })
	if !ok {
		return Key{}, fmt.Errorf("%w, or is of another image", errOtherKey)
	}
	return k, nil
}

func (e *envelope) verify(i Image, keys []Key) (Key, error) {
	if len(e.Signatures) > maxEnvelopeSignatures {
		return Key{}, fmt.Errorf("the envelope has more than %d signatures", maxEnvelopeSignatures)
	}
	message := preAuthEncoding(e.PayloadType, e.Payload)
	k, ok := signer(keys, func(k Key) bool {
		for _, s := range e.Signatures {
			if k.verifies(message, s.Sig) {
				return true
			}
		}
		return false
	})
	if !ok {
		return Key{}, errOtherKey
	}
	if e.PayloadType != "application/vnd.in-toto+json" {
		return Key{}, fmt.Errorf("what was signed is of type %q", e.PayloadType)
	}
	return k, checkStatement(e.Payload, i)
}

// preAuthEncoding is what an envelope's signature is of (dsse, protocol.md):
//
//	DSSEv1 29 http://example.com/HelloWorld 11 hello world
func preAuthEncoding(payloadType string, payload []byte) []byte {
	return fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(payloadType), payloadType, len(payload), payload)
}

// checkStatement reads what a key has signed (in-toto attestation, statement.md):
//
//	{"_type":"https://in-toto.io/Statement/v1","subject":[{"digest":{"sha256":"…"}}],
//	 "predicateType":"https://sigstore.dev/cosign/sign/v1","predicate":{}}
func checkStatement(payload []byte, i Image) error {
	var s struct {
		Type      string `json:"_type"`
		Predicate string `json:"predicateType"`
		Subject   []struct {
			Digest map[string]string `json:"digest"`
		} `json:"subject"`
	}
	if err := json.Unmarshal(payload, &s); err != nil {
		return fmt.Errorf("what was signed is no statement: %w", err)
	}
	if s.Type != "https://in-toto.io/Statement/v1" {
		return fmt.Errorf("what was signed is a %q", s.Type)
	}
	if s.Predicate != PredicateSign {
		return fmt.Errorf("it is an attestation of type %q, not a signature", s.Predicate)
	}
	var others []string
	for _, subject := range s.Subject {
		digest := "sha256:" + subject.Digest["sha256"]
		if digest == i.Digest {
			return nil
		}
		others = append(others, digest)
	}
	return fmt.Errorf("it is of the image %.200s", strings.Join(others, ", "))
}
