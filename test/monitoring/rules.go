// SPDX-License-Identifier: Apache-2.0

package monitoring

import (
	"fmt"
	"os"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Rules is a rules file of Prometheus.
type Rules struct {
	Groups []struct {
		Name  string `yaml:"name"`
		Rules []Rule `yaml:"rules"`
	} `yaml:"groups"`
}

// Rule is an alert.
type Rule struct {
	Alert       string            `yaml:"alert"`
	Expr        string            `yaml:"expr"`
	For         string            `yaml:"for,omitempty"`
	Labels      map[string]string `yaml:"labels"`
	Annotations map[string]string `yaml:"annotations"`
}

// ReadRules reads a rules file. A field that is not known is an error.
func ReadRules(path string) (*Rules, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read rules: %w", err)
	}
	defer f.Close()
	d := yaml.NewDecoder(f)
	d.KnownFields(true)
	r := &Rules{}
	if err := d.Decode(r); err != nil {
		return nil, fmt.Errorf("read rules %s: %w", path, err)
	}
	return r, nil
}

// Alerts are those of all groups.
func (r *Rules) Alerts() []Rule {
	var out []Rule
	for _, g := range r.Groups {
		out = append(out, g.Rules...)
	}
	return out
}

// Impatient are the rules with alerts that fire at once and are looked at every
// second: a test has no ten minutes.
func (r *Rules) Impatient() ([]byte, error) {
	type group struct {
		Name     string `yaml:"name"`
		Interval string `yaml:"interval"`
		Rules    []Rule `yaml:"rules"`
	}
	var out struct {
		Groups []group `yaml:"groups"`
	}
	for _, g := range r.Groups {
		made := group{Name: g.Name, Interval: "1s"}
		for _, rule := range g.Rules {
			rule.For = ""
			made.Rules = append(made.Rules, rule)
		}
		out.Groups = append(out.Groups, made)
	}
	return yaml.Marshal(out)
}

var ourSeries = regexp.MustCompile(`\b(?:kmmd|kmm_watcher)_[a-z_]+`)

// Named are the series of ours that a text names, such as an expression.
func Named(text string) []string { return ourSeries.FindAllString(text, -1) }

// PrometheusRule is a rules file as an object for the Prometheus operator. What it
// says is copied line by line, so that the two differ in nothing.
func PrometheusRule(rules string) string {
	var out strings.Builder
	out.WriteString(`# SPDX-License-Identifier: Apache-2.0
#
# Code generated from rules.yaml by make gen. DO NOT EDIT.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: kmmd
spec:
`)
	_, groups, _ := strings.Cut(rules, "\ngroups:\n")
	for line := range strings.Lines("groups:\n" + groups) {
		out.WriteString("  " + line)
	}
	return out.String()
}

// Page is docs/reference/metrics.md.
func Page(metrics []Metric) string {
	var out strings.Builder
	out.WriteString(`<!-- Generated from the code by make gen. DO NOT EDIT. -->
# Metrics

kmmd serves these at ` + "`/metrics`" + ` of ` + "`listen`" + `, kmm-watcher at that of ` + "`--listen`" + `; both also have those of Go's runtime and of the
process (` + "`go_…`, `process_…`" + `). Times are in seconds, sizes in bytes. Labels are closed sets, but for ` + "`namespace` and `name`" + ` of
Modules, versions, kernels, and ` + "`image`" + ` while it is being pulled. Of kmm-watcher the replica that holds the lease knows Modules.
`)
	for _, program := range []struct{ title, prefix string }{{"kmmd", "kmmd_"}, {"kmm-watcher", "kmm_watcher_"}} {
		fmt.Fprintf(&out, "\n## %s\n\n| metric | kind | labels | |\n|---|---|---|---|\n", program.title)
		for _, m := range metrics {
			if !strings.HasPrefix(m.Name, program.prefix) {
				continue
			}
			labels := ""
			if len(m.Labels) > 0 {
				labels = "`" + strings.Join(m.Labels, "`, `") + "`"
			}
			fmt.Fprintf(&out, "| `%s` | %s | %s | %s |\n", m.Name, m.Kind, labels, m.Help)
		}
	}
	return out.String()
}
