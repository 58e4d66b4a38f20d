// SPDX-License-Identifier: Apache-2.0

package images

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/kmm-node/kmmd/pkg/images/credentials"
)

// toldError is what went wrong with a request, as it may be told: errors end up in logs and in the status of a Module.
//
//   - What was sent to prove who we are is left out, should the other side repeat it.
//   - A URL is told without user and query: one to which a registry sends us may be signed.
//   - An answer that is none of a registry is told by its status alone. Whoever names the image may have named any server
//     that the node reaches, and what that says is not for him.
type toldError struct {
	err     error
	secrets []string
}

// leftOut stands for what is not told.
const leftOut = "[…]"

// urlParts are user and query of a URL in a text.
var urlParts = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`(\bhttps?://)(?:[^\s/"'@]*@)?([^\s"'?]*)(\?[^\s"']*)?`)
})

func (e *toldError) Error() string {
	s := e.err.Error()
	var answer *transport.Error
	if errors.As(e.err, &answer) && len(answer.Errors) == 0 {
		s = strings.Replace(s, answer.Error(), fmt.Sprintf("unexpected status code %d %s", answer.StatusCode, http.StatusText(answer.StatusCode)), 1)
	}
	s = urlParts().ReplaceAllString(s, "$1$2")
	for _, secret := range e.secrets {
		s = strings.ReplaceAll(s, secret, leftOut)
	}
	return s
}

func (e *toldError) Unwrap() error { return e.err }

// told makes an error of a request one that may be told.
func (a *authorizer) told(err error) error { return &toldError{err, a.secrets()} }

// secrets is all that was sent to prove who we are.
func (a *authorizer) secrets() []string {
	out := secretsIn(a.cred)
	for _, values := range a.header {
		out = append(out, longEnough(values...)...)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, value := range a.values {
		_, token, _ := strings.Cut(value, " ")
		out = append(out, longEnough(token)...)
	}
	return out
}

// secretsIn is what is secret of a credential, also in the form in which it is sent.
func secretsIn(c credentials.Credential) []string {
	return longEnough(c.Password, c.IdentityToken, c.RegistryToken, base64.StdEncoding.EncodeToString([]byte(c.Username+":"+c.Password)))
}

// minSecret is the length of what is looked for: a shorter one is in any text.
const minSecret = 4

func longEnough(texts ...string) []string {
	return slices.DeleteFunc(texts, func(s string) bool { return len(s) < minSecret })
}
