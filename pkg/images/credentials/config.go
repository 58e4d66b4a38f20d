// SPDX-License-Identifier: Apache-2.0

package credentials

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"path"
	"slices"
	"strings"
)

// config is what is used of a document:
//
//	{"auths": {"registry.example:5000/team": {"auth": "dXNlcjpwYXNz"}},
//	 "credsStore": "secretservice", "credHelpers": {"registry.example": "ecr-login"}}
//
// A document without "auths" may be the older form: the map of it alone.
type config struct {
	origin  string
	entries []entry
	store   string            // credsStore
	helpers map[string]string // credHelpers: by host
}

// entry is one key of auths, taken apart.
type entry struct {
	key, host, port, path string
	cred                  Credential
}

type authEntry struct {
	Username      string `json:"username,omitempty"`
	Password      string `json:"password,omitempty"`
	Auth          string `json:"auth,omitempty"`
	IdentityToken string `json:"identitytoken,omitempty"`
	RegistryToken string `json:"registrytoken,omitempty"`
}

func parse(origin string, b []byte) (config, error) {
	c := config{origin: origin}
	var doc struct {
		Auths       map[string]authEntry `json:"auths"`
		CredsStore  string               `json:"credsStore"`
		CredHelpers map[string]string    `json:"credHelpers"`
	}
	if err := json.Unmarshal(b, &doc); err != nil {
		return c, malformed(origin, b, err)
	}
	c.store, c.helpers = doc.CredsStore, doc.CredHelpers
	if doc.Auths == nil {
		doc.Auths = old(b)
	}
	var problems error
	for _, key := range slices.Sorted(maps.Keys(doc.Auths)) {
		e, err := parseEntry(key, doc.Auths[key])
		if err != nil {
			problems = errors.Join(problems, fmt.Errorf("%s: auths %q: %w", origin, key, err))
			continue
		}
		if e.cred != (Credential{}) { // what a credential store leaves behind
			e.cred.Origin = fmt.Sprintf("%s (%s)", origin, key)
			c.entries = append(c.entries, e)
		}
	}
	slices.SortStableFunc(c.entries, entry.compare)
	return c, problems
}

// old reads the form of kubernetes.io/dockercfg: names that look like hosts.
func old(b []byte) map[string]authEntry {
	var all map[string]json.RawMessage
	_ = json.Unmarshal(b, &all) // it has been read once
	out := map[string]authEntry{}
	for key, raw := range all {
		var e authEntry
		if strings.ContainsAny(key, ".:") && json.Unmarshal(raw, &e) == nil {
			out[key] = e
		}
	}
	return out
}

// malformed tells the line, and nothing of the content.
func malformed(origin string, b []byte, err error) error {
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		offset := min(int(syntax.Offset), len(b))
		return fmt.Errorf("%s:%d: no JSON (at byte %d)", origin, 1+strings.Count(string(b[:offset]), "\n"), offset)
	case errors.As(err, &kind):
		offset := min(int(kind.Offset), len(b))
		return fmt.Errorf("%s:%d: %q is not of type %s", origin, 1+strings.Count(string(b[:offset]), "\n"), kind.Field, kind.Type)
	}
	return fmt.Errorf("%s: no docker configuration", origin)
}

func parseEntry(key string, a authEntry) (entry, error) {
	e := entry{key: key}
	name := key
	if !strings.Contains(name, "://") {
		name = "https://" + name
	}
	u, err := url.Parse(name)
	if err != nil || u.Host == "" {
		return e, errors.New("no registry")
	}
	e.host, e.port = hub(u.Hostname()), u.Port()
	e.path = strings.TrimPrefix(u.Path, "/")
	for _, version := range []string{"v1", "v2"} { // as in https://index.docker.io/v1/
		if rest, ok := strings.CutPrefix(e.path+"/", version+"/"); ok {
			e.path = strings.TrimSuffix(rest, "/")
		}
	}
	e.cred = Credential{
		Username: a.Username, Password: a.Password,
		IdentityToken: a.IdentityToken, RegistryToken: a.RegistryToken,
	}
	if a.Auth != "" {
		b, err := base64.StdEncoding.DecodeString(strings.TrimSpace(a.Auth))
		if err != nil {
			b, err = base64.RawStdEncoding.DecodeString(strings.TrimSpace(a.Auth))
		}
		user, password, ok := strings.Cut(string(b), ":")
		if err != nil || !ok {
			return e, errors.New(`"auth" is not the base64 of USER:PASSWORD`)
		}
		e.cred.Username, e.cred.Password = user, strings.Trim(password, "\x00")
	}
	return e, nil
}

// compare sorts the more special before the more general.
func (e entry) compare(o entry) int {
	if wild, other := strings.Contains(e.host, "*"), strings.Contains(o.host, "*"); wild != other {
		if wild {
			return 1
		}
		return -1
	}
	return len(o.path) - len(e.path)
}

// matches follows the kubelet: "*" stands for any part of one label of the host,
// ports are the same or both missing, and the path is how the repository begins.
func (e entry) matches(host, repository string) bool {
	name, port := split(host)
	if e.port != port || !strings.HasPrefix(repository, e.path) {
		return false
	}
	ours, theirs := strings.Split(e.host, "."), strings.Split(hub(name), ".")
	if len(ours) != len(theirs) {
		return false
	}
	for i := range ours {
		if ok, err := path.Match(ours[i], theirs[i]); err != nil || !ok {
			return false
		}
	}
	return true
}

// split takes the port off a host.
func split(host string) (name, port string) {
	if name, port, err := net.SplitHostPort(host); err == nil {
		return name, port
	}
	return strings.Trim(host, "[]"), ""
}

// helpersFor names the helpers that a tool which runs programs would ask for
// host; all of them when host is empty.
func (c *config) helpersFor(host string) []string {
	var out []string
	for _, key := range slices.Sorted(maps.Keys(c.helpers)) {
		if host == "" || strings.EqualFold(key, host) {
			out = append(out, fmt.Sprintf("%s: credHelpers has %q for %s, which kmmd does not run", c.origin, c.helpers[key], key))
		}
	}
	if c.store != "" {
		out = append(out, fmt.Sprintf("%s: credsStore is %q, which kmmd does not run", c.origin, c.store))
	}
	return out
}
