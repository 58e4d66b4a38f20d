// SPDX-License-Identifier: Apache-2.0

package registries

import (
	"encoding/pem"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// node writes files below a root and loads them.
func node(t *testing.T, files map[string]string) (*Config, string, error) {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		name = filepath.Join(root, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(name), 0o755))
		require.NoError(t, os.WriteFile(name, []byte(content), 0o644))
	}
	c, err := Load(Options{Root: root})
	return c, root, err
}

// words are what is asked, one line for each endpoint.
func words(list []Endpoint) []string {
	var out []string
	for _, e := range list {
		s := e.String() + " " + e.Repository
		for _, f := range []struct {
			set  bool
			name string
		}{
			{e.Namespace != "", "ns=" + e.Namespace}, {!e.Resolve, "no-resolve"}, {!e.Pull, "no-pull"},
			{e.PlainHTTP, "http"}, {e.Fallback, "fallback"}, {e.SkipVerify, "skip-verify"},
		} {
			if f.set {
				s += " " + f.name
			}
		}
		out = append(out, s)
	}
	return out
}

func ref(name string) Reference {
	name, digest, _ := strings.Cut(name, "@")
	r := Reference{Digest: digest}
	r.Host, r.Repository, _ = strings.Cut(name, "/")
	if i := strings.LastIndexByte(r.Repository, ':'); i >= 0 {
		r.Repository, r.Tag = r.Repository[:i], r.Repository[i+1:]
	}
	return r
}

const digest = "@sha256:aaaa"

func TestEndpoints(t *testing.T) {
	const (
		certs = "etc/containerd/certs.d/"
		conf  = "etc/containers/registries.conf"
	)
	insecure := ref("reg.example/a:v1")
	insecure.Insecure, insecure.SkipVerify = true, true
	own := []string{"https://reg.example/v2 a"}
	tests := []struct {
		name  string
		files map[string]string
		ref   Reference
		want  []string
	}{
		{"nothing", nil, ref("reg.example/a:v1"), own},
		{"Docker Hub", nil, ref("index.docker.io/library/a:v1"), []string{"https://registry-1.docker.io/v2 library/a"}},
		{"insecure by request", nil, insecure, []string{
			"https://reg.example/v2 a http skip-verify", "http://reg.example/v2 a http fallback skip-verify"}},

		{"hosts: in the order of the file", map[string]string{certs + "reg.example/hosts.toml": `
[host."https://z.example"]
[host."https://a.example/cache"]
capabilities = ["pull"]
[host."https://m.example/api/docker"]
override_path = true
capabilities = ["resolve"]
[host."n.example:5000/v2"]
`}, ref("reg.example/a:v1"), []string{
			"https://z.example/v2 a ns=reg.example",
			"https://a.example/cache/v2 a ns=reg.example no-resolve",
			"https://m.example/api/docker a ns=reg.example no-pull",
			"https://n.example:5000/v2 a ns=reg.example",
			"https://reg.example/v2 a",
		}},
		{"hosts: order of other ways to write it", map[string]string{certs + "reg.example/hosts.toml": `
host."https://z.example".skip_verify = true
host."https://a.example".skip_verify = false
`}, ref("reg.example/a:v1"), []string{
			"https://z.example/v2 a ns=reg.example skip-verify", "https://a.example/v2 a ns=reg.example", "https://reg.example/v2 a"}},
		{"hosts: server", map[string]string{certs + "reg.example/hosts.toml": `
server = "http://inner.example"
capabilities = ["pull", "push"]
`}, ref("reg.example/a:v1"), []string{"http://inner.example/v2 a ns=reg.example no-resolve http"}},
		{"hosts: http with settings for TLS", map[string]string{certs + "reg.example/hosts.toml": `
server = "http://reg.example:5000"
skip_verify = true
`}, ref("reg.example/a:v1"), []string{
			"https://reg.example:5000/v2 a ns=reg.example http skip-verify",
			"http://reg.example:5000/v2 a ns=reg.example http fallback skip-verify"}},
		{"hosts: name with port", map[string]string{
			certs + "reg.example_5000_/hosts.toml": `server = "https://one.example"`,
			certs + "reg.example:5000/hosts.toml":  `server = "https://two.example"`,
			certs + "_default/hosts.toml":          `server = "https://default.example"`,
		}, ref("reg.example:5000/a:v1"), []string{"https://one.example/v2 a ns=reg.example:5000"}},
		{"hosts: default", map[string]string{
			certs + "other.example/hosts.toml": `server = "https://two.example"`,
			certs + "_default/hosts.toml":      `[host."https://mirror.example"]`,
		}, ref("reg.example/a:v1"), []string{"https://mirror.example/v2 a ns=reg.example", "https://reg.example/v2 a"}},
		{"hosts: Docker Hub", map[string]string{certs + "docker.io/hosts.toml": `
server = "https://docker.io"
[host."https://mirror.example"]
`}, ref("index.docker.io/library/a:v1"), []string{
			"https://mirror.example/v2 library/a ns=docker.io", "https://registry-1.docker.io/v2 library/a"}},
		{"hosts: request counts for its own host", map[string]string{certs + "reg.example/hosts.toml": `
[host."https://mirror.example"]
`}, insecure, []string{
			"https://mirror.example/v2 a ns=reg.example",
			"https://reg.example/v2 a http skip-verify", "http://reg.example/v2 a http fallback skip-verify"}},
		{"hosts before registries.conf", map[string]string{
			certs + "reg.example/hosts.toml": `server = "https://one.example"`,
			conf:                             "[[registry]]\nprefix = \"reg.example\"\nlocation = \"two.example\"\n",
		}, ref("reg.example/a:v1"), []string{"https://one.example/v2 a ns=reg.example"}},

		{"conf: mirrors and location", map[string]string{conf: `
unqualified-search-registries = ["docker.io"]
short-name-mode = "permissive"
[[registry]]
prefix = "reg.example/team"
location = "inner.example/drivers"
[[registry.mirror]]
location = "m.example:5000/x"
[[registry.mirror]]
location = "n.example"
insecure = true
[aliases]
"debian" = "docker.io/library/debian"
`}, ref("reg.example/team/a:v1"), []string{
			"https://m.example:5000/v2 x/a",
			"https://n.example/v2 a http skip-verify", "http://n.example/v2 a http fallback skip-verify",
			"https://inner.example/v2 drivers/a",
		}},
		{"conf: the longest prefix", map[string]string{conf: `
[[registry]]
location = "reg.example"
blocked = true
[[registry]]
prefix = "reg.example/team"
location = "one.example"
[[registry]]
prefix = "reg.example/team/a"
location = "two.example/b"
`}, ref("reg.example/team/a:v1"), []string{"https://two.example/v2 b"}},
		{"conf: whole components only", map[string]string{conf: `
[[registry]]
location = "reg.example/te"
blocked = true
[[registry]]
location = "reg.exam"
blocked = true
`}, ref("reg.example/team/a:v1"), []string{"https://reg.example/v2 team/a"}},
		{"conf: another port is another registry", map[string]string{conf: `
[[registry]]
location = "reg.example"
blocked = true
`}, ref("reg.example:5000/a:v1"), []string{"https://reg.example:5000/v2 a"}},
		{"conf: a tag", map[string]string{conf: `
[[registry]]
prefix = "reg.example/a:v1"
location = "one.example/b:v1"
`}, ref("reg.example/a:v1"), []string{"https://one.example/v2 b"}},
		{"conf: another tag", map[string]string{conf: `
[[registry]]
prefix = "reg.example/a:v1"
location = "one.example/b:v1"
`}, ref("reg.example/a:v2"), []string{"https://reg.example/v2 a"}},
		{"conf: wildcard", map[string]string{conf: `
[[registry]]
prefix = "*.example"
insecure = true
[[registry.mirror]]
location = "mirror.test/m"
`}, ref("a.b.example/a:v1"), []string{
			"https://mirror.test/v2 m/a",
			"https://a.b.example/v2 a http skip-verify", "http://a.b.example/v2 a http fallback skip-verify"}},
		{"conf: wildcard is for subdomains", map[string]string{conf: `
[[registry]]
prefix = "*.reg.example"
blocked = true
`}, ref("reg.example/a:v1"), own},
		{"conf: a name before a wildcard", map[string]string{conf: `
[[registry]]
prefix = "*.reg.example"
blocked = true
[[registry]]
location = "a.reg.example"
`}, ref("a.reg.example/a:v1"), []string{"https://a.reg.example/v2 a"}},
		{"conf: mirrors for digests, asked by tag", map[string]string{conf: `
[[registry]]
location = "reg.example"
mirror-by-digest-only = true
[[registry.mirror]]
location = "m.example"
`}, ref("reg.example/a:v1"), own},
		{"conf: mirrors for digests, asked by digest", map[string]string{conf: `
[[registry]]
location = "reg.example"
mirror-by-digest-only = true
[[registry.mirror]]
location = "m.example"
`}, ref("reg.example/a" + digest), []string{"https://m.example/v2 a", "https://reg.example/v2 a"}},
		{"conf: each mirror for itself, asked by tag", map[string]string{conf: `
[[registry]]
location = "reg.example"
[[registry.mirror]]
location = "d.example"
pull-from-mirror = "digest-only"
[[registry.mirror]]
location = "t.example"
pull-from-mirror = "tag-only"
[[registry.mirror]]
location = "m.example"
pull-from-mirror = "all"
`}, ref("reg.example/a:v1"), []string{"https://t.example/v2 a", "https://m.example/v2 a", "https://reg.example/v2 a"}},
		{"conf: each mirror for itself, asked by digest", map[string]string{conf: `
[[registry]]
location = "reg.example"
[[registry.mirror]]
location = "d.example"
pull-from-mirror = "digest-only"
[[registry.mirror]]
location = "t.example"
pull-from-mirror = "tag-only"
`}, ref("reg.example/a" + digest), []string{"https://d.example/v2 a", "https://reg.example/v2 a"}},
		{"conf: later files replace", map[string]string{
			conf:                "[[registry]]\nlocation = \"reg.example\"\nblocked = true\n",
			conf + ".d/1.conf":  "[[registry]]\nprefix = \"reg.example\"\nlocation = \"one.example\"\n",
			conf + ".d/2.conf":  "[[registry]]\nprefix = \"reg.example\"\nlocation = \"two.example\"\n",
			conf + ".d/3.other": "no TOML",
		}, ref("reg.example/a:v1"), []string{"https://two.example/v2 a"}},
		{"conf: the old form", map[string]string{conf: `
[registries.search]
registries = ["docker.io"]
[registries.insecure]
registries = ["reg.example"]
`}, ref("reg.example/a:v1"), []string{
			"https://reg.example/v2 a http skip-verify", "http://reg.example/v2 a http fallback skip-verify"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, _, err := node(t, tt.files)
			require.NoError(t, err)
			list, err := c.Endpoints(tt.ref)
			require.NoError(t, err)
			assert.Equal(t, tt.want, words(list))
		})
	}
	list, err := (*Config)(nil).Endpoints(ref("reg.example/a:v1"))
	require.NoError(t, err)
	assert.Equal(t, own, words(list))
}

func TestBlocked(t *testing.T) {
	for name, conf := range map[string]string{
		"registry":   "[[registry]]\nlocation = \"reg.example\"\nblocked = true\n",
		"only name":  "[[registry]]\nprefix = \"reg.example/team\"\nblocked = true\n",
		"wildcard":   "[[registry]]\nprefix = \"*.example\"\nblocked = true\n",
		"tag":        "[[registry]]\nlocation = \"reg.example/team/a:v1\"\nblocked = true\n",
		"old form":   "[registries.block]\nregistries = [\"reg.example\"]\n[registries.insecure]\nregistries = [\"reg.example\"]\n",
		"everything": "[[registry]]\nprefix = \"*.example\"\nlocation = \"inner.test\"\nblocked = true\n",
	} {
		t.Run(name, func(t *testing.T) {
			c, root, err := node(t, map[string]string{
				"etc/containers/registries.conf":                conf,
				"etc/containerd/certs.d/reg.example/hosts.toml": `server = "https://elsewhere.example"`,
			})
			require.NoError(t, err)
			_, err = c.Endpoints(ref("reg.example/team/a:v1"))
			require.ErrorIs(t, err, ErrBlocked)
			assert.ErrorContains(t, err, filepath.Join(root, "etc/containers/registries.conf"))
		})
	}
}

func TestMalformed(t *testing.T) {
	const (
		hosts = "etc/containerd/certs.d/reg.example/hosts.toml"
		conf  = "etc/containers/registries.conf.d/50-x.conf"
	)
	tests := []struct{ name, file, content, want string }{
		{"hosts: no TOML", hosts, "server = \"x\"\n[host.\"a", ":2:"},
		{"hosts: wrong type", hosts, "server = \"x\"\n\nskip_verify = \"no\"", ":3:"},
		{"hosts: wrong type in a table", hosts, "[host.\"https://a\"]\ncapabilities = \"pull\"", ":2:"},
		{"hosts: no URL", hosts, "[host.\"ftp://a\"]", `[host."ftp://a"]: no URL`},
		{"hosts: password", hosts, "[host.\"https://u:p@a\"]", "no URL of the form"},
		{"hosts: capability", hosts, "capabilities = [\"fetch\"]", `"fetch" is none of pull`},
		{"hosts: ca", hosts, "ca = 3", "ca: 3 is neither"},
		{"hosts: ca list", hosts, "ca = [3]", "ca: 3 is no string"},
		{"hosts: client", hosts, "client = [[\"a\", \"b\", \"c\"]]", "client: "},
		{"hosts: header", hosts, "[host.\"https://a\".header]\nx = 1", "header.x: 1 is"},
		{"hosts: time", hosts, "dial_timeout = \"soon\"", `"soon" is no time`},
		{"conf: no TOML", conf, "[[registry]]\nlocation =", ":2:"},
		{"conf: wrong type", conf, "[[registry]]\nlocation = \"a\"\nblocked = \"no\"", ":3:"},
		{"conf: empty", conf, "[[registry]]\n", "[[registry]] 1 (\"\"): neither prefix nor location"},
		{"conf: URL", conf, "[[registry]]\nlocation = \"https://a\"", "is a URL"},
		{"conf: no host", conf, "[[registry]]\nlocation = \"a b/c\"", "does not begin with a host"},
		{"conf: star inside", conf, "[[registry]]\nprefix = \"a.*.example\"\nlocation=\"a\"", `only as in "*.example.com"`},
		{"conf: star and path", conf, "[[registry]]\nprefix = \"*.example/x\"", `only as in "*.example.com"`},
		{"conf: mirror", conf, "[[registry]]\nlocation = \"a\"\n[[registry.mirror]]\n", "mirror 1 has no location"},
		{"conf: mirror's use", conf, "[[registry]]\nlocation = \"a\"\n[[registry.mirror]]\nlocation=\"b\"\npull-from-mirror=\"some\"", `"some" is none of`},
		{"conf: two rules", conf, "[[registry]]\nlocation = \"a\"\nmirror-by-digest-only = true\n[[registry.mirror]]\nlocation=\"b\"\npull-from-mirror=\"all\"", "exclude each other"},
		{"too large", conf, strings.Repeat("\n", maxFile+1), "no regular file of at most"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, root, err := node(t, map[string]string{tt.file: tt.content})
			require.ErrorContains(t, err, filepath.Join(root, tt.file))
			assert.ErrorContains(t, err, tt.want)
			_, err = c.Endpoints(ref("reg.example/a:v1"))
			assert.Error(t, err, "what is said about this host is not passed over")
			if tt.file == hosts {
				_, err = c.Endpoints(ref("other.example/a:v1"))
				assert.NoError(t, err, "another host")
			}
		})
	}
}

func TestChangesCountAtOnce(t *testing.T) {
	c, root, err := node(t, nil)
	require.NoError(t, err)
	file := filepath.Join(root, "etc/containers/registries.conf")
	require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
	require.NoError(t, os.WriteFile(file, []byte("[[registry]]\nlocation = \"reg.example\"\nblocked = true\n"), 0o644))
	_, err = c.Endpoints(ref("reg.example/a:v1"))
	assert.ErrorIs(t, err, ErrBlocked)
}

func TestFilesOfTLS(t *testing.T) {
	server := httptest.NewTLSServer(nil)
	t.Cleanup(server.Close)
	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	const hosts = "etc/containerd/certs.d/reg.example_5000_/"
	tests := []struct {
		name    string
		files   map[string]string
		cas     []string
		clients []KeyPair
		err     string
	}{
		{"hosts.toml", map[string]string{hosts + "hosts.toml": `
ca = ["a.crt", "/etc/pki/b.crt"]
client = ["both.pem", ["x.cert", "x.key"]]`, hosts + "a.crt": ca, "etc/pki/b.crt": ca, "etc/docker/certs.d/reg.example:5000/c.crt": ca},
			[]string{hosts + "a.crt", "etc/pki/b.crt"},
			[]KeyPair{{Cert: hosts + "both.pem"}, {hosts + "x.cert", hosts + "x.key"}}, "both.pem"},
		{"hosts.toml, one CA", map[string]string{hosts + "hosts.toml": `ca = "a.crt"`, hosts + "a.crt": ca}, []string{hosts + "a.crt"}, nil, ""},
		{"containerd without hosts.toml", map[string]string{hosts + "a.crt": ca}, []string{hosts + "a.crt"}, nil, ""},
		{"hosts.toml without CA", map[string]string{hosts + "hosts.toml": "", "etc/docker/certs.d/reg.example:5000/c.crt": ca},
			[]string{"etc/docker/certs.d/reg.example:5000/c.crt"}, nil, ""},
		{"containers before docker", map[string]string{
			"etc/containers/certs.d/reg.example:5000/a.crt": ca, "etc/docker/certs.d/reg.example:5000/c.crt": ca},
			[]string{"etc/containers/certs.d/reg.example:5000/a.crt"}, nil, ""},
		{"another port", map[string]string{"etc/docker/certs.d/reg.example:5001/c.crt": ca, "etc/docker/certs.d/reg.example/c.crt": ca}, nil, nil, ""},
		{"no certificate", map[string]string{"etc/docker/certs.d/reg.example:5000/c.crt": "hello"},
			[]string{"etc/docker/certs.d/reg.example:5000/c.crt"}, nil, "c.crt: no PEM certificate"},
		{"not there", map[string]string{hosts + "hosts.toml": `ca = "a.crt"`}, []string{hosts + "a.crt"}, nil, "read CA certificate"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, root, err := node(t, tt.files)
			require.NoError(t, err)
			list, err := c.Endpoints(ref("reg.example:5000/a:v1"))
			require.NoError(t, err)
			require.Len(t, list, 1)
			var cas []string
			for _, file := range list[0].CAs {
				cas = append(cas, strings.TrimPrefix(file, root+"/"))
			}
			assert.Equal(t, tt.cas, cas)
			var clients []KeyPair
			for _, p := range list[0].Clients {
				clients = append(clients, KeyPair{strings.TrimPrefix(p.Cert, root+"/"), strings.TrimPrefix(p.Key, root+"/")})
			}
			assert.Equal(t, tt.clients, clients)
			conf, err := list[0].TLS()
			if tt.err != "" {
				assert.ErrorContains(t, err, tt.err)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, tt.cas != nil, conf.RootCAs != nil, "without further CAs the system's count")
			assert.False(t, conf.InsecureSkipVerify)
		})
	}
}

func TestClientCertificateWithoutKey(t *testing.T) {
	c, _, err := node(t, map[string]string{"etc/docker/certs.d/reg.example/client.cert": "x"})
	require.NoError(t, err)
	_, err = c.Endpoints(ref("reg.example/a:v1"))
	assert.ErrorContains(t, err, "client.cert has no key")
}

func TestHeaderAndTimeout(t *testing.T) {
	c, _, err := node(t, map[string]string{"etc/containerd/certs.d/reg.example/hosts.toml": `
[host."https://m.example"]
dial_timeout = "1500ms"
[host."https://m.example".header]
x-one = "1"
x-two = ["a", "b"]
`})
	require.NoError(t, err)
	list, err := c.Endpoints(ref("reg.example/a:v1"))
	require.NoError(t, err)
	assert.Equal(t, map[string][]string{"x-one": {"1"}, "x-two": {"a", "b"}}, list[0].Header)
	assert.Equal(t, 1500*time.Millisecond, list[0].DialTimeout)
	assert.Empty(t, list[1].Header)
	assert.Zero(t, list[1].DialTimeout)
}

func FuzzHosts(f *testing.F) {
	f.Add([]byte("server = \"https://a\"\n[host.\"https://b\"]\ncapabilities = [\"pull\"]\nca = [\"x\"]\n[host.\"https://b\".header]\na = \"b\"\n"))
	f.Add([]byte("host = {\"a\" = {client = [[\"a\", \"b\"], \"c\"]}}"))
	f.Add([]byte("[host]\n\"a:5000/v2/x\".override_path = true"))
	c := &Config{}
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := c.parseHosts("/d/hosts.toml", b, ref("reg.example/a:v1"))
		for _, e := range list {
			assert.NoError(t, err)
			assert.NotEmpty(t, e.URL.Host)
			assert.True(t, e.URL.Scheme == "https" || e.PlainHTTP)
		}
	})
}

func FuzzConf(f *testing.F) {
	f.Add([]byte("[[registry]]\nprefix = \"*.example\"\nlocation = \"a/b\"\n[[registry.mirror]]\nlocation = \"c\"\npull-from-mirror = \"all\"\n"), "reg.example/a:v1")
	f.Add([]byte("[registries.insecure]\nregistries = [\"a\"]\n[registries.block]\nregistries = [\"b\"]\n"), "a/b"+digest)
	f.Fuzz(func(t *testing.T, b []byte, name string) {
		rules, err := parseConf("f", b)
		if err != nil {
			return
		}
		if r, rest := choose(rules, ref(name)); r != nil {
			for _, e := range r.endpoints(ref(name), rest) {
				assert.True(t, e.URL.Scheme == "https" || e.PlainHTTP)
			}
		}
	})
}
