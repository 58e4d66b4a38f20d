// SPDX-License-Identifier: Apache-2.0

package images

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/kmm-node/kmmd/pkg/images/cosign"
)

// ErrPolicy is an image that the node's policy does not allow; the message
// names the rule. Asking again helps only once the image, its signatures or the
// policy have changed.
var ErrPolicy = errors.New("not allowed by the node's policy")

// The rules, as messages name them: the keys of the configuration.
const (
	ruleRepositories = "policy allowed_repositories"
	ruleDigest       = "policy require_digest"
	ruleKeys         = "policy signature_keys"
)

// Policy says which images a store gives out; the zero value allows all. It
// counts for each Ensure, for images that are in the store already too.
type Policy struct {
	// AllowedRepositories are what a reference has to begin with, up to a slash,
	// a colon or its end: "registry.example/drivers" allows
	// registry.example/drivers/nic:v1 and registry.example/drivers:v1. The first
	// part is always a host, docker.io for Docker Hub, or the name is that of a
	// layout: "oci:/srv/images". Mirrors do not count, only the name
	// itself. Empty allows all.
	AllowedRepositories []string
	// RequireDigest refuses references without a digest.
	RequireDigest bool
	// Keys, if there are any: one of them has to have signed the image, or the
	// index that stands for it. Its signature is kept in the store.
	Keys []cosign.Key
}

// Check finds rules that can not be meant; Open refuses them too.
func (p Policy) Check() error {
	for _, prefix := range p.AllowedRepositories {
		host, path, _ := strings.Cut(prefix, "/")
		_, port, _ := strings.Cut(host, ":")
		switch {
		case strings.HasPrefix(prefix, schemeLayout+":/"), strings.HasPrefix(prefix, schemeArchive+":/"):
		case strings.ContainsAny(prefix, "*?@ \t") || strings.Trim(port, "0123456789") != "" || strings.ContainsAny(path, ":"):
			return fmt.Errorf("%s: %q: give the begin of a repository, without tag, digest and wildcards", ruleRepositories, prefix)
		case !strings.ContainsAny(host, ".:") && host != "localhost":
			return fmt.Errorf("%s: %q does not begin with a registry: write docker.io/%s if that is meant", ruleRepositories, prefix, prefix)
		}
	}
	return nil
}

// allow applies the rules about the reference itself.
func (p Policy) allow(q *query) error {
	repo := repository(q.ref)
	matches := func(prefix string) bool {
		prefix = hub(strings.TrimRight(prefix, "/"))
		rest, ok := strings.CutPrefix(repo, prefix)
		return ok && (rest == "" || rest[0] == '/')
	}
	if len(p.AllowedRepositories) > 0 && !slices.ContainsFunc(p.AllowedRepositories, matches) {
		return fmt.Errorf("%w: %s: %s is in none of %q", ErrPolicy, ruleRepositories, repo, p.AllowedRepositories)
	}
	if p.RequireDigest && !strings.Contains(q.written, "@") {
		return fmt.Errorf("%w: %s: %s is only a tag, which can be moved: write IMAGE@sha256:…", ErrPolicy, ruleDigest, q.written)
	}
	return nil
}

// repository is what the references of one repository have in common, as people
// write it.
func repository(ref name.Reference) string {
	if local, ok := ref.(localRef); ok {
		return local.repository()
	}
	return hub(ref.Context().Name())
}

// hub gives Docker Hub the one name.
func hub(repo string) string {
	if rest, ok := strings.CutPrefix(repo, name.DefaultRegistry); ok && (rest == "" || rest[0] == '/') {
		return "docker.io" + rest
	}
	return repo
}
