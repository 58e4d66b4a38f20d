// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestText(t *testing.T) {
	var r Redactor
	r.Add("hunter2!", "abc", "first line\nsecond line of it", "hunter2!longer")
	for _, tt := range []struct{ name, in, want string }{
		{"known", "it said hunter2! twice: hunter2!", "it said " + Redacted + " twice: " + Redacted},
		{"the longer of two", "x hunter2!longer x", "x " + Redacted + " x"},
		{"a line of a known one", "  second line of it", "  " + Redacted},
		{"too short to be looked for", "abc", "abc"},
		{"url", "http://u:p@ss/w:rd@proxy:3128/x", "http://" + Redacted + "@proxy:3128/x"},
		{"url without a user", "https://registry.example:5000/v2/", "https://registry.example:5000/v2/"},
		{"token as a user", "https://tok3n@git.example/x", "https://" + Redacted + "@git.example/x"},
		{"image", "registry.example:5000/a/b@sha256:0123", "registry.example:5000/a/b@sha256:0123"},
		{"image with a password", `"containerImage": "user:pw@registry.example:5000/a/b:1"`, `"containerImage": "` + Redacted + `@registry.example:5000/a/b:1"`},
		{"image by tag and digest", "b:1@sha256:0123 a/b:1@sha256:0123", "b:1@sha256:0123 a/b:1@sha256:0123"},
		{"layout", "oci:/srv/images", "oci:/srv/images"},
		{"iscsi", "netroot=iscsi:user:pw@10.0.0.1::3260", "netroot=iscsi:" + Redacted + "@10.0.0.1::3260"},
		{"signed url", `get "https://s3.example/b?X-Amz-Signature=abc&x=1": EOF`, `get "https://s3.example/b?` + Redacted + `": EOF`},
		{"header", "Authorization: Basic dXNlcjpwdw==\nHost: x", "Authorization: " + Redacted + "\nHost: x"},
		{"header in JSON", `"Authorization": "Basic abc\"def", "x": 1`, `"Authorization": "` + Redacted + `", "x": 1`},
		{"header in TOML", `X-Registry-Token = ["a", "b"]`, "X-Registry-Token = " + Redacted},
		{"bearer", "got Bearer abcdefgh.ijk, expired", "got Bearer " + Redacted + ", expired"},
		{"challenge", `Bearer realm="https://auth.example/token"`, `Bearer realm="https://auth.example/token"`},
		{"web token", "x eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIx.abc-_d x", "x " + Redacted + " x"},
		{"github", "ghp_0123456789abcdefghijABCDEFGHIJ", Redacted},
		{"aws", "AKIAIOSFODNN7EXAMPLE", Redacted},
		{"docker configuration", `{"auth": "dTpw", "x": "y"}`, `{"auth": "` + Redacted + `", "x": "y"}`},
		{"key in JSON", `"identitytoken": "zzz",`, `"identitytoken": "` + Redacted + `",`},
		{"assignment", "wifi.password=geheim,mode=1 DB_PASSWORD='a b'", "wifi.password=" + Redacted + ",mode=1 DB_PASSWORD=" + Redacted},
		{"flag", "--password geheim --verbose", "--password " + Redacted + " --verbose"},
		{"credential of systemd", "systemd.set_credential=a:geheim quiet", "systemd.set_credential=" + Redacted + " quiet"},
		{"key", "a\n-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----\nb", "a\n" + Redacted + "\nb"},
		{"key without an end", "-----BEGIN PRIVATE KEY-----\nMIIE\nabc", Redacted},
		{"certificate", "-----BEGIN CERTIFICATE-----\nMIIE", "-----BEGIN CERTIFICATE-----\nMIIE"},
		{"a fact of the kernel", "CONFIG_MODULE_SIG=y module.sig_enforce=1 root=UUID=1-2", "CONFIG_MODULE_SIG=y module.sig_enforce=1 root=UUID=1-2"},
	} {
		t.Run(tt.name, func(t *testing.T) { assert.Equal(t, tt.want, r.Text(tt.in)) })
	}
}

func TestScrub(t *testing.T) {
	for _, tt := range []struct{ name, in, want string }{
		{"environment", `{"env":[{"name":"A","value":"b"},{"name":"N","value":1},{"name":"C","valueFrom":{"secretKeyRef":{"name":"s","key":"k"}}}]}`,
			`{"env":[{"name":"A","value":"*"},{"name":"N","value":"*"},{"name":"C","valueFrom":{"secretKeyRef":{"name":"s","key":"k"}}}]}`},
		{"build arguments", `{"buildArgs":[{"name":"A","value":"b"}]}`, `{"buildArgs":[{"name":"A","value":"*"}]}`},
		{"names of secrets stay", `{"imageRepoSecret":{"name":"pull"},"secrets":[{"name":"x"}],"pullSecrets":["a"],"secretName":"n"}`,
			`{"imageRepoSecret":{"name":"pull"},"secrets":[{"name":"x"}],"pullSecrets":["a"],"secretName":"n"}`},
		{"headers", `{"host":{"https://m":{"header":{"x-any":["v"],"y":"v"}}}}`, `{"host":{"https://m":{"header":{"x-any":"*","y":"*"}}}}`},
		{"data", `{"kind":"Secret","data":{"k":"djE="},"stringData":{"k":"v"}}`, `{"kind":"Secret","data":{"k":"*"},"stringData":{"k":"*"}}`},
		{"annotation", `{"annotations":{"kubectl.kubernetes.io/last-applied-configuration":"{}","a":"b"}}`,
			`{"annotations":{"kubectl.kubernetes.io/last-applied-configuration":"*","a":"b"}}`},
		{"by key", `{"API_KEY":"x","db-password":7,"tokens":["a"],"automountServiceAccountToken":true}`,
			`{"API_KEY":"*","db-password":"*","tokens":"*","automountServiceAccountToken":true}`},
		{"command line", `{"args":["--token","abc","--v","2"]}`, `{"args":["--token","*","--v","2"]}`},
		{"the rest", `{"a":[1,true,null,"x"],"firmwarePath":"/f"}`, `{"a":[1,true,null,"x"],"firmwarePath":"/f"}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var in, want any
			require.NoError(t, json.Unmarshal([]byte(tt.in), &in))
			require.NoError(t, json.Unmarshal([]byte(tt.want), &want))
			assert.Equal(t, stars(want), Scrub(in))
		})
	}
}

// stars has Redacted where the table has a star.
func stars(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k := range v {
			v[k] = stars(v[k])
		}
	case []any:
		for i := range v {
			v[i] = stars(v[i])
		}
	case string:
		if v == "*" {
			return Redacted
		}
	}
	return v
}

func TestSecrets(t *testing.T) {
	var doc any
	require.NoError(t, json.Unmarshal([]byte(`{"auths":{"r.example":{"auth":"dXNlcjpwdzEyMw==","password":"other"}},"env":[{"name":"A","value":12}],
		"host":{"m":{"header":{"authorization":["Basic dTpwdzQ1Ng=="]}}},"args":["--token","abc"],"kept":"x","imageRepoSecret":{"name":"n"}}`), &doc))
	assert.ElementsMatch(t, []string{"dXNlcjpwdzEyMw==", "pw123", "other", "12", "Basic dTpwdzQ1Ng==", "dTpwdzQ1Ng==", "pw456", "abc"}, Secrets(doc))
}

func TestJSON(t *testing.T) {
	r := &Redactor{}
	r.Add("hunter2")
	// In a text that is quoted already a pattern would end at the quote.
	got := r.JSON(`{"message":"set password=\"a b\" <x>","hunter2":1,"n":12345678901234567890,"env":[{"name":"A","value":"b"}]}`)
	assert.JSONEq(t, `{"[REDACTED]":1,"env":[{"name":"A","value":"[REDACTED]"}],"message":"set password=[REDACTED] <x>","n":12345678901234567890}`, got)
	assert.Contains(t, got, "12345678901234567890", "as it was")
	assert.NotContains(t, r.JSON(`{"password": "x1y2"`), "x1y2", "what is cut is a text")
	assert.Equal(t, []string{"abc", "dTpwdw==", "pw"}, SecretsIn(`{"auths":{"r.example":{"password":"abc"},"s":{"auth": "dTpwdw=="`))
}

// BenchmarkText is what a full bundle of metrics costs, by the byte.
func BenchmarkText(b *testing.B) {
	r := &Redactor{}
	r.Add("hunter2")
	text := strings.Repeat("kmmd_step_duration_seconds_bucket{step=\"load\",le=\"0.05\"} 12\n[   12.345678] nic: key of the flow is 7\n", 1000)
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		r.Text(text)
	}
}
