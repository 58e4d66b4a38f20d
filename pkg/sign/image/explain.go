// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/kmm-node/kmmd/pkg/images"
	"github.com/kmm-node/kmmd/pkg/images/credentials"
)

// explain turns what went wrong while pushing into one of the errors of pkg/images,
// and adds what to do.
func (r *registry) explain(ctx context.Context, err error, found credentials.Found) error {
	var source *sourceError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &source):
		return source.error
	case ctx.Err() != nil:
		return images.Brief(err, found.Credentials...)
	}
	advice, sentinel := r.diagnose(err, found)
	return fmt.Errorf("%w: %w: %s", sentinel, images.Brief(err, found.Credentials...), advice)
}

func (r *registry) diagnose(err error, found credentials.Found) (advice string, sentinel error) {
	host := r.tag.RegistryStr()
	var answer *transport.Error
	if errors.As(err, &answer) {
		switch code := answer.StatusCode; {
		case refused(err):
			return r.access(found), images.ErrUnauthorized
		case code == http.StatusNotFound:
			return "some registries want a repository to be made before the first push: check the name " + r.tag.RepositoryStr(), images.ErrNotFound
		case code == http.StatusTooManyRequests || code >= http.StatusInternalServerError:
			return "the registry answers, but can not take it now: look at " + host, images.ErrUnreachable
		}
		return "the registry answers, but does not take it: look at " + host, images.ErrUnreachable
	}
	var certificate *tls.CertificateVerificationError
	switch {
	case errors.As(err, &certificate):
		return "give " + host + " a certificate that is known here (SSL_CERT_DIR), or do without " +
			"(registryTLS.insecureSkipTLSVerify, --skip-tls-verify-to)", images.ErrUnreachable
	case errors.Is(err, images.ErrPlainHTTP), errors.Is(err, http.ErrSchemeMismatch):
		return host + " has no https: allow plain http to it (registryTLS.insecure, --insecure-to), or give it a certificate", images.ErrUnreachable
	}
	return "check the network, the proxy and that " + host + " is up; the tag is as it was", images.ErrUnreachable
}

// access says which credentials were tried.
func (r *registry) access(found credentials.Found) string {
	advice := "no credentials were given for " + r.tag.Repository.String() + ": pushing needs a secret of type " +
		"kubernetes.io/dockerconfigjson (imageRepoSecret, --authfile)"
	if len(found.Credentials) > 0 {
		var tried []string
		for _, c := range found.Credentials {
			tried = append(tried, c.Origin)
		}
		advice = "tried with " + strings.Join(tried, ", ") + ": check that they are right and may push to " + r.tag.Repository.String()
	}
	return strings.Join(append([]string{advice}, found.Notes...), "; ")
}
