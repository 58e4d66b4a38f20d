// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/exit"
	"github.com/kmm-node/kmmd/pkg/images"
	"github.com/kmm-node/kmmd/pkg/images/imagestest"
	"github.com/kmm-node/kmmd/pkg/sign"
	"github.com/kmm-node/kmmd/pkg/sign/image"
)

// unsignedImage is a registry with the image in:v1, which has a module.
func unsignedImage(t *testing.T) *imagestest.Registry {
	t.Helper()
	hello, err := os.ReadFile(signData + "hello.ko")
	require.NoError(t, err)
	r := imagestest.NewRegistry(t)
	imagestest.Push(t, r.Host+"/in:v1", imagestest.Layer(t, map[string]string{"opt/lib/modules/6.1/hello.ko": string(hello)}))
	return r
}

const helloGlob = "/opt/lib/modules/6.1/*.ko"

// signImage are the flags to sign in:v1 with.
func signImage(r *imagestest.Registry, to string, more ...string) []string {
	return append([]string{
		"sign", "image", "--from", r.Host + "/in:v1", "--to", to, "--insecure-from", "--insecure-to", "--files", helloGlob,
		"--key", signData + "keys/rsa-pkcs8.pem", "--cert", signData + "keys/rsa.crt",
	}, more...)
}

func TestSignImage(t *testing.T) {
	r := unsignedImage(t)
	result := write(t, filepath.Join(t.TempDir(), "result"), strings.Repeat("what was there before\n", 100))
	to := r.Host + "/out:v1"
	out, err := kmmd(t, signImage(r, to, "--result", result)...)
	require.NoError(t, err)
	b, err := os.ReadFile(result)
	require.NoError(t, err)
	assert.Regexp(t, `^{"image":"`+to+`","digest":"sha256:[0-9a-f]{64}","signed":1,"unchanged":false}\n$`, string(b))
	assert.Contains(t, out, "signed  1 files")

	// The same once more; then from what is signed, to where it is.
	_, err = kmmd(t, signImage(r, to, "--result", result)...)
	require.NoError(t, err)
	again, err := os.ReadFile(result)
	require.NoError(t, err)
	assert.Equal(t, string(b), string(again))
	_, err = kmmd(t, signImage(r, to, "--from", to, "--result", result)...)
	require.NoError(t, err)
	again, err = os.ReadFile(result)
	require.NoError(t, err)
	assert.Equal(t, strings.Replace(string(b), `"signed":1,"unchanged":false`, `"signed":0,"unchanged":true`, 1), string(again))

	// As the node's store has it, it is what sign-file makes of the same module.
	_, err = kmmd(t, "image", "copy", "--from", to, "--insecure-from", "--to", "oci:"+t.TempDir()+"/copy")
	require.NoError(t, err)
	store := t.TempDir()
	_, err = kmmd(t, "image", "pull", "--store", store, "--kernel", "6.1", "--insecure", to)
	require.NoError(t, err)
	s, err := images.Open(store, images.Options{})
	require.NoError(t, err)
	defer s.Close()
	tree, err := s.Ensure(t.Context(), images.Request{Ref: to, Releases: []string{"6.1"}, Insecure: true})
	require.NoError(t, err)
	want, err := os.ReadFile(signData + "hello.rsa-sha256.ko")
	require.NoError(t, err)
	got, err := os.ReadFile(filepath.Join(tree.ModulesDir, "hello.ko"))
	require.NoError(t, err)
	assert.Equal(t, want, got)
}

func TestSignImageErrors(t *testing.T) {
	r := unsignedImage(t)
	to := r.Host + "/out:v1"
	tests := []struct {
		name string
		args []string
		code int
		says string
	}{
		{"no place", []string{"sign", "image", "--files", "/x", "--key", signData + "keys/rsa-pkcs8.pem", "--cert", signData + "keys/rsa.crt"}, int(exit.Usage), "--from and --to"},
		{"no files", []string{"sign", "image"}, int(exit.Usage), "--files"},
		{"no tag", signImage(r, r.Host+"/out"), int(exit.Usage), "IMAGE:TAG"},
		{"relative pattern", signImage(r, to, "--files", "a.ko"), int(exit.Usage), "absolute"},
		{"relative pattern, without another --files", signImage(r, to, "a.ko"), int(exit.Usage), "absolute"},
		{"key of another", signImage(r, to, "--cert", signData+"keys/p256.crt"), int(exit.Usage), sign.ErrKeyMismatch.Error()},
		{"no match", signImage(r, to, "--files", "/opt/none.ko"), int(exit.NotAsWanted), `"/opt/none.ko" matches nothing; modules it has are /opt/lib/modules/6.1/hello.ko`},
		{"no such image", signImage(r, to, "--from", r.Host+"/none:v1"), int(exit.NotAsWanted), "check the name"},
		{"no registry", signImage(r, to, "--to", "127.0.0.1:1/out:v1"), int(exit.NotWritten), "the tag is as it was"},
		{"bad authfile", signImage(r, to, "--authfile", "/dev"), int(exit.Usage), "/dev"},
		{"no place for the result", signImage(r, to, "--result", "/nonexistent/x"), int(exit.NotAsWanted), "/nonexistent/x"},
		{"copy of nothing", []string{"image", "copy"}, int(exit.Usage), "--from and --to"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := kmmd(t, tt.args...)
			require.ErrorContains(t, err, tt.says)
			assert.Equal(t, tt.code, exitCode(err))
		})
	}
	for _, request := range r.Requests() {
		assert.False(t, strings.HasPrefix(request, "PUT /v2/out/"), request)
	}
}

// TestSignImageWithLogins takes the credentials of two files.
func TestSignImageWithLogins(t *testing.T) {
	r := unsignedImage(t)
	r.Handle(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		user, password, _ := req.BasicAuth()
		if want := map[bool]string{true: "pusher", false: "reader"}[strings.HasPrefix(req.URL.Path, "/v2/out")]; user != want && (req.URL.Path != "/v2/" || password != "x") {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, req)
	})
	login := func(name, user string) string {
		return write(t, filepath.Join(t.TempDir(), user), `{"auths": {"`+name+`": {"username": "`+user+`", "password": "x"}}}`)
	}
	flags := signImage(r, r.Host+"/out:v1", "--authfile", login(r.Host, "reader"), "--authfile", login(r.Host+"/out", "pusher"))
	_, err := kmmd(t, flags...)
	require.NoError(t, err)

	home := t.TempDir()
	t.Setenv("DOCKER_CONFIG", home)
	_, err = kmmd(t, signImage(r, r.Host+"/out:v2")...)
	require.ErrorIs(t, err, images.ErrUnauthorized)
	merged := filepath.Join(home, "config.json")
	_, err = kmmd(t, "image", "logins", "--to", merged, login(r.Host, "reader"), login(r.Host+"/out", "pusher"), login(r.Host, "late"))
	require.NoError(t, err)
	_, err = kmmd(t, signImage(r, r.Host+"/out:v2")...)
	require.NoError(t, err, "docker's own file, which logins has made")
}

func TestImageLogins(t *testing.T) {
	dir := t.TempDir()
	to := filepath.Join(dir, "config.json")
	_, err := kmmd(t, "image", "logins", "--to", to)
	require.NoError(t, err)
	b, err := os.ReadFile(to)
	require.NoError(t, err)
	assert.JSONEq(t, `{"auths": {}}`, string(b))
	st, err := os.Stat(to)
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o600), st.Mode())

	_, err = kmmd(t, "image", "logins")
	assert.Equal(t, int(exit.Usage), exitCode(err))
	_, err = kmmd(t, "image", "logins", "--to", to, write(t, filepath.Join(dir, "bad"), `{"auths": hidden`))
	require.ErrorContains(t, err, "bad:1")
	assert.NotContains(t, err.Error(), "hidden")
	_, err = kmmd(t, "image", "logins", "--to", to, "/nonexistent")
	require.NoError(t, err, "one that is missing is no error for a pod either")
}

// TestResultIsWrittenInPlace: the file is a mount of its own in a pod.
func TestResultIsWrittenInPlace(t *testing.T) {
	dir := t.TempDir()
	result := write(t, filepath.Join(dir, "log"), "")
	before, err := os.Stat(result)
	require.NoError(t, err)
	r := unsignedImage(t)
	_, err = kmmd(t, signImage(r, "oci:"+dir+"/out", "--result", result)...)
	require.NoError(t, err)
	after, err := os.Stat(result)
	require.NoError(t, err)
	assert.True(t, os.SameFile(before, after))

	// After an error it is empty: then the kubelet takes the last lines of the log.
	_, err = kmmd(t, signImage(r, "oci:"+dir+"/out", "--result", result, "--files", "/none")...)
	require.ErrorIs(t, err, image.ErrNoMatch)
	b, err := os.ReadFile(result)
	require.NoError(t, err)
	assert.Empty(t, b)
}
