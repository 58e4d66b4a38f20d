// SPDX-License-Identifier: Apache-2.0

package images

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/kmm-node/kmmd/pkg/images/cosign"
)

// What the signatures of one image may cost. Anybody who can push to the
// repository can add some.
const (
	maxSignatures    = 64       // looked at
	maxSignature     = 64 << 10 // bytes of one; attestations may be larger, and are not wanted
	signatureTimeout = 2 * time.Minute
)

// signed is what signatures/<digest>.json keeps, so that a stored image can be
// verified with the registry gone. Nothing in it is believed: it is verified
// each time it is read.
type signed struct {
	Digest     string             `json:"digest"`
	Manifest   []byte             `json:"manifest"`
	Signatures []cosign.Signature `json:"signatures"`
}

// verify applies the rule about keys.
func (p Policy) verify(s signed) error {
	var why []string
	for _, sig := range s.Signatures {
		_, err := sig.Verify(cosign.Image{Digest: s.Digest, Manifest: s.Manifest}, p.Keys)
		if err == nil {
			return nil
		}
		why = append(why, strings.TrimPrefix(err.Error(), cosign.ErrSignature.Error()+": "))
	}
	if len(why) == 0 {
		return fmt.Errorf("%w: %s: %s has no signature: sign it with one of %s", ErrPolicy, ruleKeys, s.Digest, p.Keys)
	}
	if len(why) > 4 {
		why = append(why[:4], fmt.Sprintf("and %d more", len(why)-4))
	}
	return fmt.Errorf("%w: %s: %s has no signature by one of %s: of those it has, %s", ErrPolicy, ruleKeys,
		s.Digest, p.Keys, strings.Join(why, "; "))
}

func (s *Store) signaturePath(digest string) string {
	return s.path("signatures", strings.TrimPrefix(digest, "sha256:")+".json")
}

// checkStored applies the rule about keys to an image of the store.
func (s *Store) checkStored(digest string) error {
	if len(s.o.Policy.Keys) == 0 {
		return nil
	}
	have := signed{}
	b, err := os.ReadFile(s.signaturePath(digest))
	if err != nil || json.Unmarshal(b, &have) != nil || have.Digest != digest {
		have = signed{Digest: digest}
	}
	return s.o.Policy.verify(have)
}

// checkSigned applies the rule about keys to what the reference stands for now,
// and keeps the signatures if it is allowed. The caller holds the lock, shared.
func (s *Store) checkSigned(ctx context.Context, src source, r *resolved) error {
	if len(s.o.Policy.Keys) == 0 || s.checkStored(r.digest) == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, signatureTimeout)
	defer cancel()
	have := signed{Digest: r.digest, Manifest: r.manifest}
	var err error
	if have.Signatures, err = signatures(ctx, src, r.digest); err != nil {
		return fmt.Errorf("look for signatures: %w", err)
	}
	if err := s.o.Policy.verify(have); err != nil {
		return err
	}
	b, err := json.Marshal(have)
	if err == nil {
		err = os.MkdirAll(s.path("signatures"), 0o700)
	}
	if err == nil {
		err = syncDir(s.dir)
	}
	if err == nil {
		err = s.writeFile(s.signaturePath(r.digest), b)
	}
	return onDisk(err)
}

// dropSignatures removes those of images that are not in the store, but for new
// ones: their image may be on its way. The caller holds the change lock.
func (s *Store) dropSignatures() error {
	all, err := s.list()
	if err != nil {
		return err
	}
	stored := map[string]bool{}
	for _, t := range all {
		stored[s.signaturePath(t.Digest)] = true
	}
	entries, err := os.ReadDir(s.path("signatures"))
	errs := []error{ignoreMissing(err)}
	for _, e := range entries {
		path := s.path("signatures", e.Name())
		info, err := e.Info()
		if err != nil || stored[path] || time.Since(info.ModTime()) < pullTimeout {
			continue
		}
		errs = append(errs, ignoreMissing(os.Remove(path)))
	}
	return errors.Join(errs...)
}

// signatures finds the signatures of an image beside it: under the tag that
// cosign gives them, and among what refers to it.
func signatures(ctx context.Context, src source, digest string) ([]cosign.Signature, error) {
	var manifests [][]byte
	raw, _, err := src.manifest(ctx, cosign.Tag(digest))
	if err == nil {
		manifests = append(manifests, raw)
	} else if !isMissing(err) {
		return nil, err
	}
	referrers, err := src.referrers(ctx, digest)
	if err != nil {
		return nil, err
	}
	for _, desc := range referrers {
		if len(manifests) == maxSignatures {
			break
		}
		if !mayBeSignature(desc) {
			continue
		}
		raw, _, err := src.manifest(ctx, desc.Digest.String())
		if err != nil && !isMissing(err) {
			return nil, err
		}
		if err == nil {
			manifests = append(manifests, raw)
		}
	}
	var out []cosign.Signature
	for _, raw := range manifests {
		if out, err = signaturesIn(ctx, src, raw, out); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// mayBeSignature leaves out what says that it is something else.
func mayBeSignature(desc v1.Descriptor) bool {
	predicate := desc.Annotations[cosign.AnnotationPredicate]
	return isDigest(desc.Digest.String()) && (predicate == "" || predicate == cosign.PredicateSign) &&
		(desc.ArtifactType == "" || strings.HasPrefix(desc.ArtifactType, cosign.TypeBundle) || strings.HasPrefix(desc.ArtifactType, "application/vnd.oci."))
}

// signaturesIn adds the signatures that the layers of a manifest are. What is
// none, or too large to be one, is left out.
func signaturesIn(ctx context.Context, src source, manifest []byte, out []cosign.Signature) ([]cosign.Signature, error) {
	m, err := v1.ParseManifest(bytes.NewReader(manifest))
	if err != nil {
		return out, nil
	}
	for _, desc := range m.Layers {
		classic := desc.MediaType == cosign.TypeSimple
		if len(out) == maxSignatures || !classic && !strings.HasPrefix(string(desc.MediaType), cosign.TypeBundle) ||
			desc.Size <= 0 || desc.Size > maxSignature || !isDigest(desc.Digest.String()) {
			continue
		}
		b, err := readBlob(ctx, src, desc)
		if isMissing(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		s := cosign.Signature{Bundle: b}
		if classic {
			sig, err := base64.StdEncoding.DecodeString(desc.Annotations[cosign.AnnotationSignature])
			if err != nil {
				continue
			}
			s = cosign.Signature{Payload: b, Signature: sig}
		}
		out = append(out, s)
	}
	return out, nil
}

// readBlob reads a small blob into memory. A place is asked for it once.
func readBlob(ctx context.Context, src source, desc v1.Descriptor) ([]byte, error) {
	for {
		b, err := readOnce(ctx, src, desc)
		if !errors.Is(err, ErrDigest) {
			return b, err
		}
		if src.distrust(desc); !src.elsewhere() {
			return nil, err
		}
	}
}

func readOnce(ctx context.Context, src source, desc v1.Descriptor) ([]byte, error) {
	body, _, err := src.blob(ctx, desc, 0)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	b, err := io.ReadAll(io.LimitReader(body, desc.Size+1))
	if err != nil {
		return nil, fmt.Errorf("fetch %s: %w", desc.Digest, err)
	}
	sum := sha256.Sum256(b)
	if got := hex.EncodeToString(sum[:]); got != desc.Digest.Hex || int64(len(b)) != desc.Size {
		return nil, fmt.Errorf("%w: blob %s arrived as sha256:%s", ErrDigest, desc.Digest, got)
	}
	return b, nil
}

// isMissing says whether a source has no such manifest or blob.
func isMissing(err error) bool {
	var answer *transport.Error
	return errors.Is(err, ErrNotFound) || errors.As(err, &answer) && answer.StatusCode == http.StatusNotFound
}
