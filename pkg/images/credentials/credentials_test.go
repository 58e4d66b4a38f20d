// SPDX-License-Identifier: Apache-2.0

package credentials

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func auth(user, password string) string {
	return fmt.Sprintf(`{"auth": %q}`, base64.StdEncoding.EncodeToString([]byte(user+":"+password)))
}

// users are the names found, in order.
func users(k *Keyring, host, repository string) []string {
	var out []string
	for _, c := range k.Lookup(host, repository).Credentials {
		out = append(out, c.Username)
	}
	return out
}

func TestLookup(t *testing.T) {
	tests := []struct {
		name             string
		keys             []string // each is the user's name too
		host, repository string
		want             []string
	}{
		{"host", []string{"reg.example", "other.example"}, "reg.example", "a", []string{"reg.example"}},
		{"case", []string{"Reg.Example"}, "reg.example", "a", []string{"Reg.Example"}},
		{"URL", []string{"https://reg.example/v1/", "http://reg.example/v2/team"}, "reg.example", "team/a",
			[]string{"http://reg.example/v2/team", "https://reg.example/v1/"}},
		{"longest path first", []string{"reg.example", "reg.example/team", "reg.example/team/a", "reg.example/other"}, "reg.example", "team/a",
			[]string{"reg.example/team/a", "reg.example/team", "reg.example"}},
		{"port", []string{"reg.example", "reg.example:5000", "reg.example:5001"}, "reg.example:5000", "a", []string{"reg.example:5000"}},
		{"no port", []string{"reg.example:5000"}, "reg.example", "a", nil},
		{"star", []string{"*.example", "*.*.example", "reg.*", "r*.example", "*"}, "reg.example", "a", []string{"*.example", "r*.example", "reg.*"}},
		{"star is one label", []string{"*.example"}, "a.b.example", "a", nil},
		{"star last", []string{"*.example/team", "reg.example"}, "reg.example", "team/a", []string{"reg.example", "*.example/team"}},
		{"star and port", []string{"*.example:5000"}, "reg.example:5000", "a", []string{"*.example:5000"}},
		{"IPv6", []string{"[::1]:5000"}, "[::1]:5000", "a", []string{"[::1]:5000"}},
		{"Docker Hub", []string{"https://index.docker.io/v1/"}, "registry-1.docker.io", "library/a", []string{"https://index.docker.io/v1/"}},
		{"Docker Hub by its short name", []string{"docker.io/team"}, "index.docker.io", "team/a", []string{"docker.io/team"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var entries []string
			for _, key := range tt.keys {
				user := fmt.Sprintf(`{"username": %q, "password": "x"}`, key)
				entries = append(entries, fmt.Sprintf("%q: %s", key, user))
			}
			k, err := Parse("test", []byte(`{"auths": {`+strings.Join(entries, ",")+`}}`))
			require.NoError(t, err)
			assert.Equal(t, tt.want, users(k, tt.host, tt.repository))
		})
	}
}

func TestKindsOfCredentials(t *testing.T) {
	k, err := Parse("secret", []byte(`{"auths": {
		"a": `+auth("joe", "pass:word")+`,
		"b": {"username": "ann", "password": "x"},
		"c": {"auth": "`+base64.StdEncoding.EncodeToString([]byte("0000:"))+`", "identitytoken": "id"},
		"d": {"registrytoken": "reg"},
		"e": {}
	}}`))
	require.NoError(t, err)
	assert.Equal(t, []Credential{{Username: "joe", Password: "pass:word", Origin: "secret (a)"}}, k.Lookup("a", "x").Credentials)
	assert.Equal(t, []Credential{{Username: "ann", Password: "x", Origin: "secret (b)"}}, k.Lookup("b", "x").Credentials)
	assert.Equal(t, []Credential{{Username: "0000", IdentityToken: "id", Origin: "secret (c)"}}, k.Lookup("c", "x").Credentials)
	assert.Equal(t, []Credential{{RegistryToken: "reg", Origin: "secret (d)"}}, k.Lookup("d", "x").Credentials)
	assert.Empty(t, k.Lookup("e", "x").Credentials, "left behind by a credential store")
}

func TestOldForm(t *testing.T) {
	k, err := Parse("secret", []byte(`{"reg.example": `+auth("joe", "x")+`, "HttpHeaders": {"a": "b"}}`))
	require.NoError(t, err)
	assert.Equal(t, []string{"joe"}, users(k, "reg.example", "a"))
}

func TestNothingSecretIsPrinted(t *testing.T) {
	k, err := Parse("secret", []byte(`{"auths": {"a": `+auth("joe", "hidden")+`}}`))
	require.NoError(t, err)
	for _, format := range []string{"%v", "%+v", "%#v", "%s"} {
		s := fmt.Sprintf(format, k.Lookup("a", "x"))
		assert.NotContains(t, s, "hidden", format)
		assert.Contains(t, s, "secret (a)", format)
	}
	for _, doc := range []string{
		`{"auths": {"a": {"auth": "aGlkZGVu"}}}`, // no colon
		`{"auths": {"a": {"auth": "hidden!"}}}`,
		`{"auths": {"a": {"password": hidden}}}`,
		`{"auths": {"a": {"password": ["hidden"]}}}`,
		`hidden`,
	} {
		k, err := Parse("secret", []byte(doc))
		require.Error(t, err, doc)
		assert.NotContains(t, err.Error(), "hidden")
		assert.NotContains(t, err.Error(), "aGlkZGVu")
		assert.ErrorContains(t, err, "secret")
		found := k.Lookup("a", "x")
		assert.Empty(t, found.Credentials)
		assert.Len(t, found.Notes, 1, doc)
	}
}

func TestLineOfAnError(t *testing.T) {
	_, err := Parse("/x.json", []byte("{\n\"auths\": {\n\"a\": 3\n}}"))
	assert.ErrorContains(t, err, "/x.json:3: ")
	_, err = Parse("/x.json", []byte("{\n\"auths\": {\n}"))
	assert.ErrorContains(t, err, "/x.json:3: ")
}

func TestFilesOfANode(t *testing.T) {
	root := t.TempDir()
	write := func(name, content string) {
		name = filepath.Join(root, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(name), 0o755))
		require.NoError(t, os.WriteFile(name, []byte(content), 0o600))
	}
	k, err := Load(Options{Root: root})
	require.NoError(t, err)
	assert.Empty(t, users(k, "reg.example", "a"))

	write("var/lib/kubelet/config.json", `{"auths": {"reg.example": `+auth("kubelet", "x")+`}, "credHelpers": {"ecr.example": "ecr-login"}}`)
	write("run/containers/0/auth.json", `{"auths": {"reg.example/a": `+auth("podman", "x")+`, "reg.example": `+auth("kubelet", "x")+`}}`)
	secret, err := Parse("secret", []byte(`{"auths": {"reg.example": `+auth("secret", "x")+`}}`))
	require.NoError(t, err)
	all := Join(secret, nil, k)
	assert.Equal(t, []string{"secret", "kubelet", "podman"}, users(all, "reg.example", "a"), "each once, what changed counts")
	assert.Empty(t, k.Lookup("reg.example", "a").Notes, "no helper is named for it")

	config := filepath.Join(root, "var/lib/kubelet/config.json")
	helper := config + `: credHelpers has "ecr-login" for ecr.example, which kmmd does not run`
	assert.Equal(t, []string{helper}, k.Lookup("ecr.example", "a").Notes)
	assert.Equal(t, []string{helper}, k.Warnings())

	write("root/.docker/config.json", `{"credsStore": "pass"}`)
	assert.Equal(t, []string{filepath.Join(root, "root/.docker/config.json") + `: credsStore is "pass", which kmmd does not run`},
		k.Lookup("reg.example", "a").Notes)

	write("run/containers/0/auth.json", `{"auths": {"reg.example`)
	k, err = Load(Options{Root: root})
	require.ErrorContains(t, err, "auth.json:1: no JSON")
	assert.Equal(t, []string{"kubelet"}, users(k, "reg.example", "a"), "the other files count")
	assert.Len(t, k.Lookup("reg.example", "a").Notes, 2)
}

func TestNoKeyring(t *testing.T) {
	var k *Keyring
	assert.Empty(t, k.Lookup("a", "b"))
	assert.Empty(t, k.Warnings())
	assert.Empty(t, Join(nil, k).Lookup("a", "b"))
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"auths": {"https://*.reg.example:5000/v1/team": `+auth("joe", "x")+`}, "credsStore": "a", "credHelpers": {"b": "c"}}`), "a.reg.example:5000", "team/a")
	f.Add([]byte(`{"reg.example": {"username": "a", "password": "b"}}`), "reg.example", "a")
	f.Fuzz(func(t *testing.T, b []byte, host, repository string) {
		k, err := Parse("test", b)
		found := k.Lookup(host, repository)
		assert.True(t, err == nil || len(found.Notes) > 0)
		said := fmt.Sprint(found.Credentials, found.Notes, k.Warnings(), err) + fmt.Sprintf("%#v %+v", found.Credentials, found.Credentials)
		for _, c := range found.Credentials {
			for _, secret := range []string{c.Password, c.IdentityToken, c.RegistryToken} {
				// What is a part of a host's name, or of our own words, says nothing.
				if len(secret) > 8 && !strings.Contains(string(b), "\""+secret+"\"") && !strings.Contains(host, secret) {
					assert.NotContains(t, said, secret)
				}
			}
		}
		if err != nil {
			return
		}
		document, err := k.Document()
		require.NoError(t, err)
		again, err := Parse("test", document)
		require.NoError(t, err)
		if utf8.Valid(b) {
			assert.ElementsMatch(t, found.Credentials, again.Lookup(host, repository).Credentials, "%s", document)
		}
	})
}

func TestMerge(t *testing.T) {
	a, err := Parse("a", []byte(`{"auths": {"reg.example": `+auth("host", "x")+`, "*.example/team": `+auth("star", "x")+`}}`))
	require.NoError(t, err)
	b, err := Parse("b", []byte(`{"auths": {"reg.example/team": `+auth("team", "x")+`, "reg.example": `+auth("second", "x")+`}}`))
	require.NoError(t, err)
	assert.Equal(t, []string{"team", "host", "second", "star"}, users(Merge(a, nil, b), "reg.example", "team/a"))
	assert.Equal(t, []string{"host", "star", "team", "second"}, users(Join(a, b), "reg.example", "team/a"))
}

func TestDocument(t *testing.T) {
	a, err := Parse("a", []byte(`{"auths": {"reg.example": {"username": "joe", "password": "a:b"}, "t": {"registrytoken": "r"}}, "credsStore": "pass"}`))
	require.NoError(t, err)
	b, err := Parse("b", []byte(`{"reg.example": `+auth("ann", "x")+`, "https://index.docker.io/v1/": `+auth("hub", "x")+`}`))
	require.NoError(t, err)
	doc, err := Join(a, b).Document()
	require.NoError(t, err)
	assert.JSONEq(t, `{"auths": {"reg.example": `+auth("joe", "a:b")+`, "t": {"registrytoken": "r"},
		"https://index.docker.io/v1/": `+auth("hub", "x")+`}}`, string(doc))
	again, err := Parse("again", doc)
	require.NoError(t, err)
	assert.Equal(t, []string{"hub"}, users(again, "docker.io", "library/x"))

	broken, _ := Parse("secret broken", []byte(`{"auths": hidden}`))
	_, err = Join(a, broken).Document()
	require.ErrorContains(t, err, "secret broken:1")
	assert.NotContains(t, err.Error(), "hidden")
	doc, err = (*Keyring)(nil).Document()
	require.NoError(t, err)
	assert.JSONEq(t, `{"auths": {}}`, string(doc))
}
