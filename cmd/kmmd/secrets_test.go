// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/base64"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/images/imagestest"
)

// said runs a command line and gives all it says: output, log and error.
func said(t *testing.T, args ...string) string {
	t.Helper()
	r, w, err := os.Pipe()
	require.NoError(t, err)
	old := os.Stderr
	os.Stderr = w
	log := make(chan string, 1)
	go func() {
		b, _ := io.ReadAll(r)
		log <- string(b)
	}()
	out, err := kmmd(t, args...)
	os.Stderr = old
	require.NoError(t, w.Close())
	return fmt.Sprintf("%s\n%s\nerror: %v", out, <-log, err)
}

// written is all that lies in a machine's directories, by file.
func written(t *testing.T, dirs ...string) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			b, err := os.ReadFile(path)
			out[path] = string(b)
			return err
		})
		if !os.IsNotExist(err) {
			require.NoError(t, err)
		}
	}
	return out
}

// TestNothingSecretIsWritten: a password for the registry, a token, a password in a reference, and the
// passphrase of a signing key are in no output, log, error, status or file, whether things go well or not.
func TestNothingSecretIsWritten(t *testing.T) {
	password := marker + "-pull"
	auth := base64.StdEncoding.EncodeToString([]byte("user:" + password))
	open, moody := imagestest.NewRegistry(t), imagestest.NewRegistry(t)
	imagestest.Push(t, open.Host+"/nic:1", imagestest.Layer(t, map[string]string{"opt/lib/modules/6.1.0-56-cloud-amd64/nic.ko": "no module"}))
	open.Handle(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		switch {
		case r.URL.Path == "/token" && strings.HasSuffix(r.Header.Get("Authorization"), auth):
			fmt.Fprintf(w, `{"token":"%s-token"}`, marker)
		case r.URL.Path == "/token":
			w.WriteHeader(http.StatusUnauthorized)
		case r.Header.Get("Authorization") == "Bearer "+marker+"-token":
			next.ServeHTTP(w, r)
		default:
			w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+r.Host+`/token",service="x"`)
			w.WriteHeader(http.StatusUnauthorized)
		}
	})
	moody.Handle(func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		w.Header().Set("WWW-Authenticate", "Basic")
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprintf(w, `{"errors":[{"code":"DENIED","message":"not with %s (%s)"}]}`, r.Header.Get("Authorization"), password)
	})

	dir, config := root(t)
	module := func(name, image string) {
		write(t, filepath.Join(dir, "modules.d", name+".yaml"), fmt.Sprintf(`apiVersion: kmm.sigs.x-k8s.io/v1beta1
kind: Module
metadata: {name: %s}
spec: {moduleLoader: {container: {modprobe: {moduleName: nic}, registryTLS: {insecure: true}, kernelMappings: [{regexp: ., containerImage: %q}]}}}
`, name, image))
	}
	module("good", open.Host+"/nic:1")
	module("refused", moody.Host+"/nic:1")
	module("password", "user:"+marker+"-reference@"+open.Host+"/nic:1")
	write(t, filepath.Join(dir, "var/lib/kubelet/config.json"), `{"auths":{"`+open.Host+`":{"auth":"`+auth+`"},"`+moody.Host+`":{"auth":"`+auth+`"}}}`)
	write(t, filepath.Join(dir, "root/.docker/config.json"), `{"auths":{"x":{"auth":"`+marker+`-malformed"}}}`)
	hosts := filepath.Join(dir, "etc/containerd/certs.d/bad.example/hosts.toml")
	registries := filepath.Join(dir, "etc/containers/registries.conf")
	t.Setenv(passphraseVariable, marker+"-passphrase")
	authfile := write(t, filepath.Join(dir, "auth.json"), `{"auths":{"`+moody.Host+`":{"auth":"`+auth+`"}}}`)
	layout := "oci:" + filepath.Join(dir, "layout")

	conf := []string{"--config", config}
	for _, tt := range []struct {
		name, want string
		args       []string
	}{
		{"pull", "", append([]string{"image", "pull", "--insecure", open.Host + "/nic:1"}, conf...)},
		{"pull refused", "DENIED", append([]string{"image", "pull", "--insecure", moody.Host + "/nic:1"}, conf...)},
		{"pull by a bad configuration", "is a URL", append([]string{"image", "pull", "bad.example/nic:1"}, conf...)},
		{"explain", "credentials", append([]string{"explain"}, conf...)},
		{"plan", "DENIED", append([]string{"plan"}, conf...)},
		{"run", "DENIED", append([]string{"run", "--once"}, conf...)},
		{"status", "DENIED", append([]string{"status"}, conf...)},
		{"bundle", "", append([]string{"bundle", "--to", filepath.Join(dir, "bundle/b.tar.gz")}, conf...)},
		{"sign with the wrong passphrase", "passphrase", []string{"sign", "--key", signData + "keys/rsa-pbes2-aes-256-cbc.pem", "--cert", signData + "keys/rsa.crt", authfile}},
		{"push", "registry refuses access", []string{"image", "copy", "--from", layout, "--to", moody.Host + "/x:1", "--insecure-to", "--authfile", authfile}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			switch tt.name {
			case "pull by a bad configuration":
				write(t, hosts, `server = "https://user:`+marker+`-server@bad.example"`)
				write(t, registries, "[[registry]]\nlocation = \"https://user:"+marker+"-conf@r.example\"\n")
				defer func() { require.NoError(t, os.Remove(registries)) }()
			case "push":
				said(t, "image", "copy", "--from", open.Host+"/nic:1", "--insecure-from", "--to", layout, "--authfile", filepath.Join(dir, "var/lib/kubelet/config.json"))
			}
			require.NoError(t, os.MkdirAll(filepath.Join(dir, "bundle"), 0o755))
			all := said(t, tt.args...)
			assert.Contains(t, all, tt.want)
			for _, secret := range []string{marker, auth} {
				assert.NotContains(t, all, secret)
			}
		})
	}
	status, err := os.ReadFile(filepath.Join(dir, "run/status.json"))
	require.NoError(t, err)
	assert.Contains(t, string(status), "DENIED", "failures were reported")
	files := written(t, filepath.Join(dir, "state"), filepath.Join(dir, "run"), filepath.Join(dir, "firmware"), filepath.Join(dir, "layout"))
	bundled, err := os.ReadFile(filepath.Join(dir, "bundle/b.tar.gz"))
	require.NoError(t, err)
	for name, content := range unpack(t, bundled) {
		files["bundle/"+name] = content
	}
	require.Greater(t, len(files), 20)
	for path, content := range files {
		for _, secret := range []string{marker, auth} {
			assert.NotContains(t, content, secret, path)
		}
	}
}
