// SPDX-License-Identifier: Apache-2.0

package images

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/images/imagestest"
)

func TestPolicyRepositories(t *testing.T) {
	digest := "@sha256:" + strings.Repeat("a", 64)
	tests := []struct {
		allowed, ref string
		ok           bool
	}{
		{"reg.example/drivers", "reg.example/drivers:v1", true},
		{"reg.example/drivers", "reg.example/drivers/nic:v1", true},
		{"reg.example/drivers", "reg.example/drivers" + digest, true},
		{"reg.example/drivers/", "reg.example/drivers/nic:v1", true},
		{"reg.example", "reg.example/anything:v1", true},
		{"reg.example:5000", "reg.example:5000/anything:v1", true},
		{"reg.example/drivers", "reg.example/drivers-evil:v1", false},
		{"reg.example/drivers", "reg.example/driver:v1", false},
		{"reg.example/drivers", "reg.example:5000/drivers:v1", false},
		{"reg.example", "reg.example.evil/x:v1", false},
		{"reg.example", "evil/reg.example/x:v1", false},
		{"docker.io/org", "org/kmod:v1", true},
		{"docker.io/org", "index.docker.io/org/kmod:v1", true},
		{"index.docker.io/library", "kmod:v1", true},
		{"docker.io/org", "kmod:v1", false},
		{"oci:/srv/images", "oci:/srv/images:v1", true},
		{"oci:/srv/images", "oci:/srv/images/nic:v1", true},
		{"oci:/", "oci:/srv/images", true},
		{"oci:/srv/images", "oci:/srv/images-evil:v1", false},
		{"oci:/srv/images", "oci-archive:/srv/images/x.tar", false},
		{"oci-archive:/srv", "oci-archive:/srv/x.tar:v1", true},
		{"reg.example", "oci:/reg.example:v1", false},
	}
	for _, tt := range tests {
		q, err := parseRequest(localRequest(tt.ref))
		require.NoError(t, err)
		err = Policy{AllowedRepositories: []string{"other.example", tt.allowed}}.allow(q)
		if tt.ok {
			assert.NoError(t, err, "%s %s", tt.allowed, tt.ref)
			continue
		}
		require.ErrorIs(t, err, ErrPolicy, "%s %s", tt.allowed, tt.ref)
		assert.ErrorContains(t, err, "policy allowed_repositories: ")
		assert.ErrorContains(t, err, tt.allowed)
	}
}

func TestPolicyThatCanNotBeMeant(t *testing.T) {
	for _, prefix := range []string{"", "drivers", "org/kmod", "reg.example/kmod:v1", "reg.example/kmod@sha256:00", "*.example", "oci:srv"} {
		_, err := Open(t.TempDir(), Options{Policy: Policy{AllowedRepositories: []string{prefix}}})
		assert.ErrorContains(t, err, "policy allowed_repositories: ", prefix)
	}
	_, err := Open(t.TempDir(), Options{Policy: Policy{AllowedRepositories: []string{
		"localhost/kmod", "localhost:5000", "reg.example/a/b", "oci:/srv", "oci-archive:/srv",
	}}})
	assert.NoError(t, err)
}

// withPolicy opens the store of s again.
func withPolicy(t *testing.T, s *Store, p Policy) *Store {
	t.Helper()
	again, err := Open(s.dir, Options{Policy: p})
	require.NoError(t, err)
	again.l = s.l
	return again
}

// TestPolicyCountsForWhatIsStored: the rules about a reference hold for what was
// pulled before there were any.
func TestPolicyCountsForWhatIsStored(t *testing.T) {
	reg, s := imagestest.NewRegistry(t), openStore(t)
	r := request(reg.Host + "/kmod:v1")
	digest := imagestest.Push(t, r.Ref, imagestest.Layer(t, testModules()))
	_, err := s.Ensure(t.Context(), r)
	require.NoError(t, err)
	reg.Requests()
	for rule, p := range map[string]Policy{
		"policy allowed_repositories: " + reg.Host + "/kmod is in none of": {AllowedRepositories: []string{"reg.example"}},
		"policy require_digest: ": {RequireDigest: true},
	} {
		for _, policy := range []string{PullAlways, PullIfNotPresent, PullNever} {
			r.PullPolicy = policy
			_, err = withPolicy(t, s, p).Ensure(t.Context(), r)
			require.ErrorIs(t, err, ErrPolicy)
			assert.ErrorContains(t, err, rule)
			assert.ErrorContains(t, err, r.Ref)
		}
	}
	assert.Empty(t, reg.Requests(), "the registry was asked")
	r.Ref = reg.Host + "/kmod@" + digest
	_, err = withPolicy(t, s, Policy{AllowedRepositories: []string{reg.Host}, RequireDigest: true}).Ensure(t.Context(), r)
	assert.NoError(t, err)
}
