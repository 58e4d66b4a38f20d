// SPDX-License-Identifier: Apache-2.0

// Package access asks the API server whether somebody may read an address of ours,
// as it does for its own /metrics: who the token belongs to (TokenReview), and
// whether that user has "get" on the path (SubjectAccessReview, nonResourceURLs). It
// decides nothing itself.
package access

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/kmm-node/kmmd/pkg/web"
)

// How long an answer holds, and how much is asked at once.
const (
	holdsYes = time.Minute
	holdsNo  = 10 * time.Second
	asked    = 4 // reviews under way; who has no right here must not busy the API server
	kept     = 1000
	patience = 10 * time.Second
	maxToken = 16 << 10 // bytes
)

// Reviewer asks, and remembers answers for a short time. It may be used by several
// goroutines.
type Reviewer struct {
	kube kubernetes.Interface
	slot chan struct{}

	mu    sync.Mutex // guards known
	known map[question]answer
}

type question struct {
	token [sha256.Size]byte // the token itself is not kept
	path  string
}

type answer struct {
	err   error
	until time.Time
}

// New makes a Reviewer. The identity of kube needs the ClusterRole
// system:auth-delegator.
func New(kube kubernetes.Interface) *Reviewer {
	return &Reviewer{kube: kube, slot: make(chan struct{}, asked), known: map[question]answer{}}
}

var _ web.Access = (*Reviewer)(nil).Review

// Review is a web.Access. An error that is neither ErrUnknown nor ErrForbidden says
// that the API server did not answer. It blocks, for at most ten seconds.
func (r *Reviewer) Review(ctx context.Context, token, path string) error {
	if len(token) > maxToken {
		return web.ErrUnknown
	}
	q := question{sha256.Sum256([]byte(token)), path}
	if a, ok := r.remembered(q); ok {
		return a.err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	select {
	case r.slot <- struct{}{}:
		defer func() { <-r.slot }()
	case <-ctx.Done():
		return fmt.Errorf("ask whether %s may be read: %w", path, context.Cause(ctx))
	}
	err := r.ask(ctx, token, path)
	switch {
	case err == nil:
		r.remember(q, answer{nil, time.Now().Add(holdsYes)})
	case errors.Is(err, web.ErrUnknown), errors.Is(err, web.ErrForbidden):
		r.remember(q, answer{err, time.Now().Add(holdsNo)})
	}
	return err
}

func (r *Reviewer) remembered(q question) (answer, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	a, ok := r.known[q]
	return a, ok && time.Now().Before(a.until)
}

func (r *Reviewer) remember(q question, a answer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.known) >= kept {
		clear(r.known) // they are asked again
	}
	r.known[q] = a
}

func (r *Reviewer) ask(ctx context.Context, token, path string) error {
	who, err := r.kube.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{
		Spec: authenticationv1.TokenReviewSpec{Token: token},
	}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("review token: %w", err)
	}
	if !who.Status.Authenticated {
		return web.ErrUnknown
	}
	user := who.Status.User
	extra := map[string]authorizationv1.ExtraValue{}
	for k, v := range user.Extra {
		extra[k] = authorizationv1.ExtraValue(v)
	}
	may, err := r.kube.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{
		Spec: authorizationv1.SubjectAccessReviewSpec{
			User: user.Username, Groups: user.Groups, UID: user.UID, Extra: extra,
			NonResourceAttributes: &authorizationv1.NonResourceAttributes{Path: path, Verb: "get"},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("review access of %s to %s: %w", user.Username, path, err)
	}
	if !may.Status.Allowed {
		return fmt.Errorf("%w by %s: a ClusterRole with get on nonResourceURLs %s is needed", web.ErrForbidden, user.Username, path)
	}
	return nil
}
