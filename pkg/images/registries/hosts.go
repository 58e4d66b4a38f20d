// SPDX-License-Identifier: Apache-2.0

package registries

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// hostsFile is a hosts.toml (containerd, hosts.md of its docs; dial_timeout since 2.1):
//
//	server = "https://registry.example"   # the registry itself, asked last
//
//	[host."https://mirror.example/v2/cache"]
//	capabilities = ["pull", "resolve"]
//	override_path = true                  # the path is complete, no /v2 to add
//	ca = "mirror.crt"                     # or a list; relative to this file
//	client = [["mirror.cert", "mirror.key"]]
//	skip_verify = false
//	dial_timeout = "3s"
//	[host."https://mirror.example/v2/cache".header]
//	x-team = ["drivers"]
//
// Keys above the first table are those of the server. Unknown keys are ignored,
// as containerd does.
type hostsFile struct {
	hostTable
	Server string               `toml:"server"`
	Hosts  map[string]hostTable `toml:"host"`
}

type hostTable struct {
	Capabilities []string       `toml:"capabilities"`
	CA           any            `toml:"ca"`     // file, or list of files
	Client       any            `toml:"client"` // file, or list of files and of pairs
	SkipVerify   *bool          `toml:"skip_verify"`
	Header       map[string]any `toml:"header"`
	OverridePath bool           `toml:"override_path"`
	DialTimeout  string         `toml:"dial_timeout"`
}

// underscored is the name of a host's directory that containerd looks for
// first: "host:5000" is "host_5000_".
func underscored(host string) string {
	if i := strings.LastIndexByte(host, ':'); i > 0 {
		return host[:i] + "_" + host[i+1:] + "_"
	}
	return host
}

// hostDir is the directory containerd uses for host, empty if there is none.
func (c *Config) hostDir(host string) string {
	for _, name := range []string{underscored(host), host, "_default"} {
		dir := c.path(c.o.Containerd, name)
		if info, err := os.Stat(dir); err == nil && info.IsDir() {
			return dir
		}
	}
	return ""
}

// readHosts reads hosts.toml in dir; found is false when there is none.
func (c *Config) readHosts(dir string, ref Reference) (list []Endpoint, found bool, err error) {
	if dir == "" {
		return nil, false, nil
	}
	file := filepath.Join(dir, "hosts.toml")
	b, err := readFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	if err == nil {
		list, err = c.parseHosts(file, b, ref)
	}
	return list, err == nil, err
}

func (c *Config) parseHosts(file string, b []byte, ref Reference) ([]Endpoint, error) {
	var f hostsFile
	if err := toml.Unmarshal(b, &f); err != nil {
		return nil, position(file, err)
	}
	var list []Endpoint
	for _, name := range hostOrder(b, f.Hosts) {
		more, err := c.hostEndpoints(file, name, f.Hosts[name], ref)
		if err != nil {
			return nil, fmt.Errorf("%s: [host.%q]: %w", file, name, err)
		}
		list = append(list, more...)
	}
	server := f.Server
	if server == "" {
		server = dialed(ref.Host)
	}
	more, err := c.hostEndpoints(file, server, f.hostTable, ref)
	if err != nil {
		return nil, fmt.Errorf("%s: server %q: %w", file, server, err)
	}
	return append(list, more...), nil
}

// hostEndpoints is the endpoint of one table, with one more where it may be
// spoken to in two ways.
func (c *Config) hostEndpoints(file, server string, t hostTable, ref Reference) ([]Endpoint, error) {
	u, err := parseServer(server, t.OverridePath)
	if err != nil {
		return nil, err
	}
	e := Endpoint{URL: *u, Repository: ref.Repository, Origin: file, PlainHTTP: u.Scheme == "http"}
	if !sameHost(u.Host, dialed(ref.Host)) {
		e.Namespace = ref.Host
	}
	if err := t.capabilities(&e); err != nil {
		return nil, err
	}
	if e.CAs, err = c.files(file, t.CA); err != nil {
		return nil, fmt.Errorf("ca: %w", err)
	}
	if e.Clients, err = c.pairs(file, t.Client); err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	if t.DialTimeout != "" {
		if e.DialTimeout, err = time.ParseDuration(t.DialTimeout); err != nil || e.DialTimeout <= 0 {
			return nil, fmt.Errorf("dial_timeout: %q is no time such as \"3s\"", t.DialTimeout)
		}
	}
	if e.Header, err = t.header(); err != nil {
		return nil, err
	}
	e.SkipVerify = t.SkipVerify != nil && *t.SkipVerify
	// What has settings for TLS is asked over TLS first, even if it says http.
	withTLS := t.SkipVerify != nil || len(e.CAs) > 0 || len(e.Clients) > 0
	if u.Scheme == "http" && withTLS && u.Port() != "80" {
		e.URL.Scheme = "https"
		return withFallback(e), nil
	}
	return ref.withRequest(e), nil
}

// parseServer takes "host", "host:port" and URLs. The result's path is where
// manifests and blobs are.
func parseServer(server string, complete bool) (*url.URL, error) {
	if !strings.Contains(server, "://") {
		server = "https://" + server
	}
	u, err := url.Parse(server)
	if err != nil {
		return nil, err
	}
	if u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil {
		return nil, errors.New("no URL of the form https://HOST[:PORT][/PATH]")
	}
	p := strings.TrimSuffix(path.Clean("/"+u.Path), "/")
	if !complete && !strings.HasSuffix(p, "/v2") {
		p += "/v2"
	}
	return &url.URL{Scheme: u.Scheme, Host: dialed(u.Host), Path: p}, nil
}

func (t *hostTable) capabilities(e *Endpoint) error {
	if len(t.Capabilities) == 0 {
		e.Resolve, e.Pull = true, true
	}
	for _, name := range t.Capabilities {
		switch strings.ToLower(name) {
		case "resolve":
			e.Resolve = true
		case "pull":
			e.Pull = true
		case "push", "referrers":
		default:
			return fmt.Errorf("capabilities: %q is none of pull, resolve, push", name)
		}
	}
	return nil
}

func (t *hostTable) header() (map[string][]string, error) {
	out := map[string][]string{}
	for key, v := range t.Header {
		values, err := stringsOf(v)
		if err != nil {
			return nil, fmt.Errorf("header.%s: %w", key, err)
		}
		out[key] = values
	}
	return out, nil
}

// files are paths: absolute ones below the root, others relative to file.
func (c *Config) files(file string, v any) ([]string, error) {
	names, err := stringsOf(v)
	for i, name := range names {
		if filepath.IsAbs(name) {
			names[i] = c.path(name)
		} else {
			names[i] = filepath.Join(filepath.Dir(file), name)
		}
	}
	return names, err
}

func (c *Config) pairs(file string, v any) ([]KeyPair, error) {
	list, ok := v.([]any)
	if !ok && v != nil {
		list = []any{v}
	}
	var out []KeyPair
	for _, v := range list {
		names, err := c.files(file, v)
		switch {
		case err != nil:
			return nil, err
		case len(names) == 1:
			out = append(out, KeyPair{Cert: names[0]})
		case len(names) == 2:
			out = append(out, KeyPair{names[0], names[1]})
		default:
			return nil, fmt.Errorf("%q is no pair of certificate and key", names)
		}
	}
	return out, nil
}

// stringsOf takes a string or a list of strings.
func stringsOf(v any) ([]string, error) {
	switch v := v.(type) {
	case nil:
		return nil, nil
	case string:
		return []string{v}, nil
	case []any:
		var out []string
		for _, e := range v {
			s, ok := e.(string)
			if !ok {
				return nil, fmt.Errorf("%v is no string", e)
			}
			out = append(out, s)
		}
		return out, nil
	}
	return nil, fmt.Errorf("%v is neither a string nor a list of strings", v)
}

// hostOrder are the keys of hosts in the order of the file, which is the order
// to ask in.
func hostOrder(b []byte, hosts map[string]hostTable) []string {
	var out []string
	note := func(key []string) {
		if len(key) > 1 && key[0] == "host" && !slices.Contains(out, key[1]) {
			out = append(out, key[1])
		}
	}
	var p unstable.Parser
	var table []string
	for p.Reset(b); p.NextExpression(); {
		e := p.Expression()
		var key []string
		for it := e.Key(); it.Next(); {
			key = append(key, string(it.Node().Data))
		}
		switch e.Kind {
		case unstable.Table, unstable.ArrayTable:
			table = key
			note(key)
		case unstable.KeyValue:
			note(append(slices.Clone(table), key...))
		}
	}
	var rest []string // written in a way that has no order, such as inline
	for name := range hosts {
		if !slices.Contains(out, name) {
			rest = append(rest, name)
		}
	}
	slices.Sort(rest)
	return append(out, rest...)
}

// position puts file and line before an error of the TOML decoder.
func position(file string, err error) error {
	var d *toml.DecodeError
	if errors.As(err, &d) {
		row, column := d.Position()
		return fmt.Errorf("%s:%d:%d: %w", file, row, column, err)
	}
	return fmt.Errorf("%s: %w", file, err)
}
