// SPDX-License-Identifier: Apache-2.0

package access_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/kmm-node/kmmd/pkg/access"
	"github.com/kmm-node/kmmd/pkg/web"
)

// server answers reviews: the token is the user's name, and ann may read /status.
type server struct {
	reviews atomic.Int64
	down    atomic.Bool
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.reviews.Add(1)
	w.Header().Set("Content-Type", "application/json")
	var out any
	var token authenticationv1.TokenReview
	var may authorizationv1.SubjectAccessReview
	switch {
	case s.down.Load():
		http.Error(w, "down", http.StatusBadRequest)
		return
	case strings.HasSuffix(r.URL.Path, "/tokenreviews"):
		_ = json.NewDecoder(r.Body).Decode(&token)
		if token.Spec.Token != "nobody" {
			token.Status.Authenticated, token.Status.User.Username = true, token.Spec.Token
		}
		out = &token
	default:
		_ = json.NewDecoder(r.Body).Decode(&may)
		a := may.Spec.NonResourceAttributes
		may.Status.Allowed = may.Spec.User == "ann" && a.Path == "/status" && a.Verb == "get"
		out = &may
	}
	_ = json.NewEncoder(w).Encode(out)
}

func TestReview(t *testing.T) {
	s := &server{}
	h := httptest.NewServer(s)
	defer h.Close()
	kube, err := kubernetes.NewForConfig(&rest.Config{Host: h.URL, QPS: -1, ContentConfig: rest.ContentConfig{ContentType: "application/json"}})
	require.NoError(t, err)
	r := access.New(kube)
	for range 3 {
		require.NoError(t, r.Review(t.Context(), "ann", "/status"))
	}
	assert.EqualValues(t, 2, s.reviews.Load(), "the answer is remembered")
	for range 3 {
		err = r.Review(t.Context(), "bob", "/status")
		require.ErrorIs(t, err, web.ErrForbidden)
		assert.ErrorContains(t, err, "bob")
		require.ErrorIs(t, r.Review(t.Context(), "ann", "/metrics"), web.ErrForbidden, "a right is for one path")
		require.ErrorIs(t, r.Review(t.Context(), "nobody", "/status"), web.ErrUnknown)
	}
	assert.EqualValues(t, 7, s.reviews.Load(), "a no as well")
	require.ErrorIs(t, r.Review(t.Context(), strings.Repeat("x", 1<<20), "/status"), web.ErrUnknown)
	assert.EqualValues(t, 7, s.reviews.Load(), "no such token is sent on")
	s.down.Store(true)
	err = r.Review(t.Context(), "eve", "/status")
	require.Error(t, err)
	assert.False(t, errors.Is(err, web.ErrUnknown) || errors.Is(err, web.ErrForbidden), "%v", err)
	s.down.Store(false)
	require.ErrorIs(t, r.Review(t.Context(), "eve", "/status"), web.ErrForbidden, "an error is not remembered")
}
