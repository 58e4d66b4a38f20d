// SPDX-License-Identifier: Apache-2.0

package images

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/images/credentials"
)

const canary = "Tops3cret"

// TestNothingSecretIsTold: whatever a registry answers, the error has none of what was sent to it or came from it.
func TestNothingSecretIsTold(t *testing.T) {
	basic := base64.StdEncoding.EncodeToString([]byte("user:" + canary + "-pull"))
	var other *httptest.Server
	tests := []struct {
		name   string
		answer http.HandlerFunc
		want   string
	}{
		{"says it again", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("WWW-Authenticate", "Basic")
			w.WriteHeader(http.StatusUnauthorized)
			fmt.Fprintf(w, `{"errors":[{"code":"UNAUTHORIZED","message":"wrong: %s, %s-pull"}]}`, r.Header.Get("Authorization"), canary)
		}, "UNAUTHORIZED: wrong: Basic […], […]"},
		{"is no registry", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusNotFound)
			fmt.Fprint(w, canary+"-of-another-service")
		}, "unexpected status code 404 Not Found"},
		{"answers with a page", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, canary+"-page") }, "parse manifest"},
		{"sends to a signed address", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, other.URL+"/blob?X-Amz-Signature="+canary+"-signed", http.StatusTemporaryRedirect)
		}, "EOF"},
		{"sends to an address with a password", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, strings.Replace(other.URL, "://", "://user:"+canary+"-url@", 1), http.StatusTemporaryRedirect)
		}, "EOF"},
		{"token service that says it again", func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/token" {
				w.WriteHeader(http.StatusForbidden)
				fmt.Fprint(w, r.Header.Get("Authorization"), canary+"-token")
				return
			}
			w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+r.Host+`/token",service="`+canary+`-service"`)
			w.WriteHeader(http.StatusUnauthorized)
		}, "get a token"},
		{"does not take its own token", func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/token" {
				fmt.Fprintf(w, `{"token":"%s-bearer"}`, canary)
				return
			}
			w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+r.Host+`/token",service="x"`)
			w.WriteHeader(http.StatusUnauthorized)
			fmt.Fprintf(w, `{"errors":[{"code":"DENIED","message":"%s"}]}`, r.Header.Get("Authorization"))
		}, "DENIED"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			other = httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
			t.Cleanup(other.Close)
			reg := httptest.NewServer(tt.answer)
			t.Cleanup(reg.Close)
			host := strings.TrimPrefix(reg.URL, "http://")
			root := t.TempDir()
			file := filepath.Join(root, "root/.docker/config.json")
			require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o700))
			require.NoError(t, os.WriteFile(file, []byte(`{"auths":{"`+host+`":{"auth":"`+basic+`"}}}`), 0o600))
			keyring, err := credentials.Load(credentials.Options{Root: root})
			require.NoError(t, err)
			s := openStore(t)
			s.o.Keyring = keyring
			s.l.retryDelay = 0
			_, err = s.Ensure(t.Context(), Request{Ref: host + "/drivers:v1", Releases: []string{testRelease}, Insecure: true})
			require.Error(t, err)
			assert.Contains(t, err.Error(), tt.want)
			assert.NotContains(t, err.Error(), canary)
			assert.NotContains(t, err.Error(), basic)
		})
	}
}

func TestRefuseMetadata(t *testing.T) {
	for address, refused := range map[string]bool{
		"169.254.169.254:80": true, "[fe80::1%eth0]:443": true, "[::ffff:169.254.169.254]:80": true, "[fd00:ec2::254]:80": true,
		"100.100.100.200:80": true, "168.63.129.16:80": true,
		"127.0.0.1:5000": false, "10.0.0.1:443": false, "192.0.2.1:443": false, "[2001:db8::1]:443": false,
	} {
		err := refuseMetadata("tcp", address, nil)
		if refused {
			assert.ErrorIs(t, err, errMetadata, address)
		} else {
			assert.NoError(t, err, address)
		}
	}
	s := openStore(t)
	_, err := s.Ensure(t.Context(), Request{Ref: "169.254.169.254/latest:v1", Releases: []string{testRelease}, Insecure: true})
	require.ErrorIs(t, err, errMetadata)
}
