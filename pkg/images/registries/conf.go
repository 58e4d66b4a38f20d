// SPDX-License-Identifier: Apache-2.0

package registries

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// confFile is a registries.conf (containers-registries.conf(5)):
//
//	[[registry]]
//	prefix = "registry.example/team"     # or "*.example"; default: location
//	location = "internal.example/team"   # put in the place of the prefix
//	insecure = false                     # any certificate, plain http
//	blocked = false
//	mirror-by-digest-only = true
//	[[registry.mirror]]
//	location = "mirror.example/team"
//	insecure = false
//	pull-from-mirror = "digest-only"     # or "tag-only", "all"
//
// Search registries and short names are not read, references are complete
// here; nor are credential helpers. The old form with lists is understood.
type confFile struct {
	Rules []rule `toml:"registry"`
	Old   struct {
		Insecure oldList `toml:"insecure"`
		Block    oldList `toml:"block"`
	} `toml:"registries"`
}

type oldList struct {
	Registries []string `toml:"registries"`
}

// rule is one [[registry]].
type rule struct {
	Prefix     string   `toml:"prefix"`
	Location   string   `toml:"location"`
	Insecure   bool     `toml:"insecure"`
	Blocked    bool     `toml:"blocked"`
	DigestOnly bool     `toml:"mirror-by-digest-only"`
	Mirrors    []mirror `toml:"mirror"`
	file       string
}

type mirror struct {
	Location string `toml:"location"`
	Insecure bool   `toml:"insecure"`
	Use      string `toml:"pull-from-mirror"`
}

// readConf reads registries.conf and what is in its directory. A later file
// replaces the rules of earlier ones that have the same prefix.
func (c *Config) readConf() ([]rule, error) {
	conf := c.path(c.o.Conf)
	files := []string{conf}
	more, err := os.ReadDir(conf + ".d")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, f := range more {
		if strings.HasSuffix(f.Name(), ".conf") && !f.IsDir() {
			files = append(files, filepath.Join(conf+".d", f.Name()))
		}
	}
	var rules []rule
	for _, file := range files {
		b, err := readFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		next, err := parseConf(file, b)
		if err != nil {
			return nil, err
		}
		rules = append(slices.DeleteFunc(rules, func(old rule) bool {
			return slices.ContainsFunc(next, func(r rule) bool { return r.Prefix == old.Prefix })
		}), next...)
	}
	return rules, nil
}

func parseConf(file string, b []byte) ([]rule, error) {
	var f confFile
	if err := toml.Unmarshal(b, &f); err != nil {
		return nil, position(file, err)
	}
	for _, host := range f.Old.Insecure.Registries {
		f.Rules = append(f.Rules, rule{Location: host, Insecure: true})
	}
	for _, host := range f.Old.Block.Registries {
		// A registry of both lists is blocked, whatever else is said.
		f.Rules = append([]rule{{Location: host, Blocked: true}}, f.Rules...)
	}
	for i := range f.Rules {
		r := &f.Rules[i]
		r.file = file
		if err := r.check(); err != nil {
			return nil, fmt.Errorf("%s: [[registry]] %d (%q): %w", file, i+1, r.Prefix, err)
		}
	}
	return f.Rules, nil
}

func (r *rule) check() error {
	var err error
	if r.Prefix == "" {
		r.Prefix = r.Location
	}
	if r.Prefix == "" {
		return errors.New("neither prefix nor location")
	}
	if wild := strings.TrimPrefix(r.Prefix, "*."); strings.Contains(wild, "*") ||
		wild != r.Prefix && strings.ContainsAny(wild, "/:@") {
		return errors.New(`"*" is known only as in "*.example.com"`)
	}
	if r.Prefix, err = location(r.Prefix); err != nil {
		return err
	}
	if r.Location == "" && !strings.HasPrefix(r.Prefix, "*.") {
		r.Location = r.Prefix
	}
	if strings.HasPrefix(r.Location, "*.") {
		r.Location = ""
	}
	if r.Location, err = location(r.Location); err != nil {
		return err
	}
	for i := range r.Mirrors {
		m := &r.Mirrors[i]
		if m.Location == "" {
			return fmt.Errorf("mirror %d has no location", i+1)
		}
		if m.Location, err = location(m.Location); err != nil {
			return err
		}
		switch m.Use {
		case "", "all", "digest-only", "tag-only":
		default:
			return fmt.Errorf("mirror %d: pull-from-mirror %q is none of all, digest-only, tag-only", i+1, m.Use)
		}
		if m.Use != "" && r.DigestOnly {
			return fmt.Errorf("mirror %d: pull-from-mirror and mirror-by-digest-only exclude each other", i+1)
		}
	}
	return nil
}

// location checks what stands for a host and a path.
func location(s string) (string, error) {
	if strings.Contains(s, "://") {
		return "", fmt.Errorf("%q is a URL: write HOST[:PORT][/PATH]", shown(s))
	}
	s = strings.TrimRight(s, "/")
	host, _, _ := strings.Cut(s, "/")
	if u, err := url.Parse("//" + host); err != nil || u.Host != host {
		return "", fmt.Errorf("%q does not begin with a host", shown(s))
	}
	return s, nil
}

// choose returns the rule whose prefix says most about ref, and what of ref's
// name (without tag and digest) comes after that prefix.
func choose(rules []rule, ref Reference) (best *rule, rest string) {
	longest := 0
	for i := range rules {
		r := &rules[i]
		length := len(strings.TrimPrefix(r.Prefix, "*"))
		if after, ok := r.match(ref); ok && length > longest {
			longest, best, rest = length, r, after
		}
	}
	return best, rest
}

// match compares whole components: "example.com/a" is no prefix of
// "example.com/ab", nor "example.com" of "example.com:5000".
func (r *rule) match(ref Reference) (rest string, ok bool) {
	if suffix, wild := strings.CutPrefix(r.Prefix, "*"); wild {
		host, _, _ := strings.Cut(ref.Host, ":")
		return "/" + ref.Repository, strings.HasSuffix(host, suffix)
	}
	name := ref.Host + "/" + ref.Repository
	switch r.Prefix {
	case name, name + ":" + ref.Tag, name + "@" + ref.Digest, name + ":" + ref.Tag + "@" + ref.Digest:
		return "", true
	}
	rest, ok = strings.CutPrefix(name, r.Prefix)
	return rest, ok && strings.HasPrefix(rest, "/")
}

// endpoints are the mirrors that may be used for ref, and the registry.
func (r *rule) endpoints(ref Reference, rest string) []Endpoint {
	var list []Endpoint
	for _, m := range r.Mirrors {
		if m.Use == "tag-only" && ref.Digest != "" || (m.Use == "digest-only" || r.DigestOnly) && ref.Digest == "" {
			continue
		}
		list = append(list, r.endpoint(ref, m.Location+rest, m.Insecure)...)
	}
	if r.Location == "" {
		return append(list, r.endpoint(ref, ref.Host+"/"+ref.Repository, r.Insecure)...)
	}
	return append(list, r.endpoint(ref, r.Location+rest, r.Insecure)...)
}

func (r *rule) endpoint(ref Reference, name string, insecure bool) []Endpoint {
	host, repository, _ := strings.Cut(name, "/")
	// A location that has a tag or a digest replaces all of the name but that.
	if i := strings.IndexAny(repository, ":@"); i >= 0 {
		repository = repository[:i]
	}
	e := Endpoint{
		URL:        url.URL{Scheme: "https", Host: dialed(host), Path: "/v2"},
		Repository: repository, Resolve: true, Pull: true, Origin: r.file, SkipVerify: insecure,
	}
	if insecure {
		return withFallback(e)
	}
	return ref.withRequest(e)
}
