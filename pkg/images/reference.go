// SPDX-License-Identifier: Apache-2.0

package images

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"path"
	"runtime"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
)

// query is a Request that has been checked.
type query struct {
	Request
	written  string // Ref as it was given
	ref      name.Reference
	policy   string // one of the three
	digest   string // when ref has one
	dirName  string // clean, absolute
	firmware string // clean, absolute; empty for none

	missing []string // pull secrets that could not be had, and why
}

func parseRequest(r Request) (*query, error) {
	q := &query{Request: r, written: r.Ref, dirName: path.Clean("/" + r.DirName)}
	if r.Digest != "" && !strings.Contains(r.Ref, "@") {
		q.Ref += "@" + r.Digest
	}
	if r.DirName == "" {
		q.dirName = DefaultDirName
	}
	if r.FirmwarePath != "" {
		q.firmware = path.Clean("/" + r.FirmwarePath)
	}
	if err := q.parseRef(); err != nil {
		return nil, err
	}
	if len(r.Releases) == 0 {
		return nil, fmt.Errorf("%w: %s: no kernel release to look for", ErrInvalidRef, r.Ref)
	}
	for _, rel := range r.Releases {
		if rel == "" || rel == "." || rel == ".." || strings.Contains(rel, "/") {
			return nil, fmt.Errorf("%w: %s: %q is no kernel release", ErrInvalidRef, r.Ref, rel)
		}
	}
	return q, nil
}

// parseRef takes what Kubernetes takes, but asks for a tag or a digest: without
// one, "latest" would be meant by nobody who names images by kernel.
func (q *query) parseRef() error {
	if ref, ok, err := parseLocal(q.Ref); ok {
		q.ref, q.digest = ref, ref.digest
		if err != nil {
			return err
		}
		return q.parsePolicy()
	}
	last := q.Ref[strings.LastIndex(q.Ref, "/")+1:]
	if !strings.ContainsAny(last, ":@") {
		return fmt.Errorf("%w: %q has neither a tag nor a digest: write IMAGE:TAG or IMAGE@sha256:…", ErrInvalidRef, q.Ref)
	}
	var opts []name.Option
	if q.Insecure {
		opts = append(opts, name.Insecure)
	}
	ref, err := name.ParseReference(q.Ref, opts...)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInvalidRef, err)
	}
	for part := range strings.SplitSeq(ref.Context().RepositoryStr(), "/") {
		if part == "" || part == "." || part == ".." { // a registry would take "a/../b" for "b"
			return fmt.Errorf("%w: %q has %q in its path", ErrInvalidRef, q.Ref, part)
		}
	}
	q.ref = ref
	if d, ok := ref.(name.Digest); ok {
		q.digest = d.DigestStr()
		if !isDigest(q.digest) {
			return fmt.Errorf("%w: %q: only sha256 digests are known", ErrInvalidRef, q.Ref)
		}
	}
	return q.parsePolicy()
}

// parsePolicy applies the default of Kubernetes (imagePullPolicy). The only
// image of a layout, without a tag, is whatever is there now, as "latest" is.
func (q *query) parsePolicy() error {
	switch q.PullPolicy {
	case PullAlways, PullIfNotPresent, PullNever:
		q.policy = q.PullPolicy
	case "":
		q.policy = PullIfNotPresent
		if id := q.ref.Identifier(); id == "" || q.digest == "" && id == "latest" {
			q.policy = PullAlways
		}
	default:
		return fmt.Errorf("%w: %s: pull policy %q is none of %s, %s, %s", ErrInvalidRef, q.Ref,
			q.PullPolicy, PullAlways, PullIfNotPresent, PullNever)
	}
	return nil
}

// AsksAlways says whether Store.Ensure asks the registry though the store has the image: it has a tag, and the policy is
// Always, by default too. ErrInvalidRef is as for Ensure.
func (r Request) AsksAlways() (bool, error) {
	q, err := parseRequest(r)
	if err != nil {
		return false, err
	}
	return q.policy == PullAlways && q.digest == "", nil
}

// key names the tree of this query for the image digest stands for. All
// releases are in it, not the one found: so the answer never depends on what
// was asked before.
func (q *query) key(digest string) string {
	b, err := json.Marshal([]any{treeVersion, digest, platform(), q.dirName, q.Releases, q.firmware,
		q.modules(), q.Closure != nil, q.declared()})
	if err != nil {
		panic("images: strings do not marshal: " + err.Error())
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// modules are the names asked for, each once, in no particular order.
func (q *query) modules() []string {
	if q.Closure == nil {
		return nil
	}
	var out []string
	for _, name := range q.Modules {
		out = append(out, canonical(name))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// declared says whether the firmware the modules declare is enough.
func (q *query) declared() bool { return q.DeclaredFirmware && q.Firmware != nil && q.Closure != nil }

// platform is what this machine runs, in the words of the OCI image index.
func platform() string { return "linux/" + runtime.GOARCH }

// isDigest says whether s is "sha256:" and 64 lower-case hex digits.
func isDigest(s string) bool {
	h, ok := strings.CutPrefix(s, "sha256:")
	if !ok || len(h) != 2*sha256.Size || strings.ToLower(h) != h {
		return false
	}
	_, err := hex.DecodeString(h)
	return err == nil
}
