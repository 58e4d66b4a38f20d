// SPDX-License-Identifier: Apache-2.0

package images

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/kmm-node/kmmd/pkg/images/credentials"
)

// explain turns what went wrong between us and the registry into one of this
// package's errors, once, and adds what to do.
func (q *query) explain(ctx context.Context, err error) error {
	if _, ok := q.ref.(localRef); ok {
		return fmt.Errorf("pull %s: %w", q.Ref, err)
	}
	for _, known := range []error{ErrDigest, ErrLimit, ErrUnsafe, ErrNoModules, ErrNoFirmware, ErrNotFile, ErrPolicy, ErrNotFound, ErrNotCached, ErrBlocked} {
		if errors.Is(err, known) {
			return fmt.Errorf("pull %s: %w", q.Ref, err)
		}
	}
	var local *localError
	if errors.Is(ctx.Err(), context.Canceled) || errors.As(err, &local) {
		return fmt.Errorf("pull %s: %w", q.Ref, err)
	}
	advice, sentinel := q.diagnose(err)
	if len(q.missing) > 0 {
		advice += "; " + strings.Join(q.missing, "; ")
	}
	var places *endpointsError
	if !errors.As(err, &places) {
		err = &answerError{err}
	}
	return fmt.Errorf("pull %s: %w: %w: %s", q.Ref, sentinel, err, advice)
}

// diagnose says what a person can do about a failure, and which kind it is.
func (q *query) diagnose(err error) (advice string, sentinel error) {
	registry := q.ref.Context().RegistryStr()
	var places *endpointsError
	if errors.As(err, &places) {
		registry = places.last().e.URL.Host
	}
	var access *accessError
	if errors.As(err, &access) {
		if len(access.tried) > 0 {
			return "check that they are right and may pull this image, and its name", ErrUnauthorized
		}
		return "check its name; a private image needs an image pull secret, or an entry in a file of the node such as " +
			"/var/lib/kubelet/config.json; credential helpers and credential providers are not run", ErrUnauthorized
	}
	var answer *transport.Error
	if errors.As(err, &answer) {
		switch code := answer.StatusCode; code {
		case http.StatusNotFound:
			return "check the name and the tag, and that the image was pushed for this kernel", ErrNotFound
		case http.StatusTooManyRequests:
			return registry + " limits how often it is asked: a mirror, or credentials, may help", ErrUnreachable
		default:
			return "the registry answers, but can not serve: look at " + registry, ErrUnreachable
		}
	}
	switch {
	case errors.Is(err, http.ErrSchemeMismatch) && !q.Insecure: // else plain http was tried, too
		return registry + " speaks plain http: set registryTLS.insecure to allow that, or give it a certificate", ErrUnreachable
	case isCertificate(err):
		return "give " + registry + " a certificate this machine knows, put its CA into /etc/containerd/certs.d or " +
			"/etc/containers/certs.d, or set registryTLS.insecureSkipTLSVerify", ErrUnreachable
	}
	return "check the network, the proxy and that " + registry + " is up", ErrUnreachable
}

// isCertificate says whether TLS failed because of the certificate.
func isCertificate(err error) bool {
	var c *tls.CertificateVerificationError
	return errors.As(err, &c)
}

// Brief keeps an error short and on one line, as far as its text goes: a registry may answer with a whole page. What was
// sent to prove who we are, of sent, is left out, and so are parts of URLs that may be secret.
func Brief(err error, sent ...credentials.Credential) error {
	told := &toldError{err: err}
	for _, c := range sent {
		told.secrets = append(told.secrets, secretsIn(c)...)
	}
	return &answerError{told}
}

// answerError keeps what a registry answers short and on one line: it may be a
// whole page.
type answerError struct{ err error }

const maxAnswer = 400 // bytes

func (e *answerError) Error() string {
	s := strings.Join(strings.Fields(e.err.Error()), " ")
	if len(s) > maxAnswer {
		s = s[:maxAnswer] + "…"
	}
	return strings.ToValidUTF8(s, "?")
}

func (e *answerError) Unwrap() error { return e.err }

// localError marks what is the fault of this machine's disk, not of the
// registry.
type localError struct{ err error }

func (e *localError) Error() string { return e.err.Error() }
func (e *localError) Unwrap() error { return e.err }

func onDisk(err error) error {
	if err == nil {
		return nil
	}
	return &localError{err}
}
