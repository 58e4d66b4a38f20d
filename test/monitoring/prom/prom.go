// SPDX-License-Identifier: Apache-2.0

// Package prom runs Debian's Prometheus for tests: a real one scrapes, evaluates
// the rules and answers.
package prom

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/kmm-node/kmmd/test/monitoring"
)

// How long a test waits, on a machine that does other things too, and how often
// it looks.
const (
	Patience = 3 * time.Minute
	Tick     = 100 * time.Millisecond
)

// Target is what is scraped.
type Target struct {
	Job, Address string
	Labels       map[string]string // such as the namespace of a pod
}

// Server is a Prometheus that runs.
type Server struct {
	t   testing.TB
	url string
}

// Tool is the path of promtool or prometheus, which test/vm/setup unpacks into a
// lab.
func Tool(t testing.TB, lab, name string) string {
	t.Helper()
	path := filepath.Join(lab, "prometheus/usr/bin", name)
	require.FileExists(t, path, "make setup-vm unpacks it")
	return path
}

// Start runs a Prometheus out of a lab until the test ends. It scrapes every
// second as deploy/monitoring has it, with labels of modules that win, and has the
// alerts of a rules file, each at once: a test has no ten minutes.
func Start(t testing.TB, lab, rulesFile string, targets ...Target) *Server {
	t.Helper()
	dir := t.TempDir()
	rules, err := monitoring.ReadRules(rulesFile)
	require.NoError(t, err)
	quick, err := rules.Impatient()
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "rules.yaml"), quick, 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "prometheus.yaml"), config(t, targets), 0o600))
	address := FreeAddress(t)
	var log bytes.Buffer
	cmd := exec.CommandContext(t.Context(), Tool(t, lab, "prometheus"), "--config.file", filepath.Join(dir, "prometheus.yaml"),
		"--storage.tsdb.path", filepath.Join(dir, "data"), "--web.listen-address", address, "--log.level=warn")
	Run(t, cmd, &log)
	s := &Server{t: t, url: "http://" + address}
	require.Eventually(t, func() bool { return ok(s.url + "/-/ready") }, Patience, Tick, "Prometheus answers")
	return s
}

// Run starts a program that ends with the test; what it says is shown when that
// failed.
func Run(t testing.TB, cmd *exec.Cmd, log *bytes.Buffer) {
	t.Helper()
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Wait() // it was told to end when the test's context was
		if t.Failed() {
			t.Logf("%s: %s", filepath.Base(cmd.Path), log)
		}
	})
}

// FreeAddress is one on the loopback interface that nobody listens at now. Nobody
// comes first, however long it takes to be used: other tests and all connections take
// their ports of 127.0.0.1.
func FreeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", fmt.Sprintf("127.%d.%d.%d:0", 1+rand.IntN(254), rand.IntN(256), 1+rand.IntN(254)))
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().String()
}

func config(t testing.TB, targets []Target) []byte {
	t.Helper()
	type static struct {
		Targets []string          `yaml:"targets"`
		Labels  map[string]string `yaml:"labels"`
	}
	type job struct {
		Name        string   `yaml:"job_name"`
		HonorLabels bool     `yaml:"honor_labels"`
		Static      []static `yaml:"static_configs"`
	}
	var jobs []job
	for _, target := range targets {
		st := static{[]string{target.Address}, target.Labels}
		if n := len(jobs); n > 0 && jobs[n-1].Name == target.Job {
			jobs[n-1].Static = append(jobs[n-1].Static, st)
			continue
		}
		jobs = append(jobs, job{target.Job, true, []static{st}})
	}
	out, err := yaml.Marshal(map[string]any{
		"global":         map[string]string{"scrape_interval": "1s", "evaluation_interval": "1s"},
		"rule_files":     []string{"rules.yaml"},
		"scrape_configs": jobs,
	})
	require.NoError(t, err)
	return out
}

// Alert is one that is pending or fires.
type Alert struct {
	State       string            `json:"state"`
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
}

// Firing are the alerts of that name that fire.
func (s *Server) Firing(name string) []Alert {
	s.t.Helper()
	var answer struct {
		Data struct{ Alerts []Alert }
	}
	require.NoError(s.t, get(s.url+"/api/v1/alerts", &answer))
	var out []Alert
	for _, a := range answer.Data.Alerts {
		if a.State == "firing" && a.Labels["alertname"] == name {
			out = append(out, a)
		}
	}
	return out
}

// Wait returns the alerts of that name as soon as one fires.
func (s *Server) Wait(name string) (alerts []Alert) {
	s.t.Helper()
	require.Eventually(s.t, func() bool {
		alerts = s.Firing(name)
		return len(alerts) > 0
	}, Patience, Tick, "%s fires", name)
	return alerts
}

// WaitEnd returns when no alert of that name fires.
func (s *Server) WaitEnd(name string) {
	s.t.Helper()
	require.Eventually(s.t, func() bool { return len(s.Firing(name)) == 0 }, Patience, Tick, "%s ends", name)
}

// Sample is one of an instant vector.
type Sample struct {
	Metric map[string]string `json:"metric"`
	Value  [2]any            `json:"value"`
}

// Query evaluates an expression now. An error says that it is none.
func (s *Server) Query(expr string) ([]Sample, error) {
	var answer struct {
		Data struct{ Result []Sample }
	}
	err := get(s.url+"/api/v1/query?query="+url.QueryEscape(expr), &answer)
	return answer.Data.Result, err
}

func get(url string, into any) error {
	r, err := http.Get(url) //nolint:noctx // it is ours, and answers or is gone
	if err != nil {
		return err
	}
	defer r.Body.Close()
	var raw struct {
		Error string `json:"error"`
	}
	var body bytes.Buffer
	if _, err := body.ReadFrom(r.Body); err != nil {
		return err
	}
	if r.StatusCode != http.StatusOK {
		_ = json.Unmarshal(body.Bytes(), &raw) // what is no JSON says nothing
		return fmt.Errorf("ask Prometheus: %s: %s", r.Status, strings.TrimSpace(raw.Error))
	}
	return json.Unmarshal(body.Bytes(), into)
}

func ok(url string) bool {
	r, err := http.Get(url) //nolint:noctx // as above
	if err != nil {
		return false
	}
	defer r.Body.Close()
	return r.StatusCode == http.StatusOK
}
