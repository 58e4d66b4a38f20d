// SPDX-License-Identifier: Apache-2.0

package web

import (
	"context"
	"errors"
	"net/http"
	"strings"
)

// What an Access says no with. Any other error is that it could not be found out.
var (
	ErrUnknown   = errors.New("the token is not known")
	ErrForbidden = errors.New("this may not be read")
)

// Access says whether whoever has a token may read a path: nil, or an error that
// is ErrUnknown or ErrForbidden. It is called by several goroutines.
type Access func(ctx context.Context, token, path string) error

// guard lets those in who may read. The token is that of "Authorization: Bearer",
// or, since a person at a browser can send no other, the password of Basic.
func guard(access Access, next http.Handler) http.Handler {
	if access == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		err := ErrUnknown
		if token := tokenOf(r); token != "" {
			err = access(r.Context(), token, r.URL.Path)
		}
		w.Header().Add("Vary", "Authorization")
		switch {
		case err == nil:
			next.ServeHTTP(w, r)
		case errors.Is(err, ErrUnknown):
			w.Header().Add("WWW-Authenticate", "Bearer")
			w.Header().Add("WWW-Authenticate", `Basic realm="the password is a token of the cluster", charset="UTF-8"`)
			http.Error(w, "a token of the cluster is needed: as bearer token, or as password of any user", http.StatusUnauthorized)
		case errors.Is(err, ErrForbidden):
			http.Error(w, err.Error(), http.StatusForbidden)
		default:
			// Why is in the log of who was asked: it is nothing for strangers.
			http.Error(w, "it can not be found out whether you may read this", http.StatusServiceUnavailable)
		}
	})
}

func tokenOf(r *http.Request) string {
	if _, password, ok := r.BasicAuth(); ok {
		return password
	}
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if strings.EqualFold(scheme, "Bearer") {
		return strings.TrimSpace(token)
	}
	return ""
}
