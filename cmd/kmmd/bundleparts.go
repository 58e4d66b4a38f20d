// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"github.com/kmm-node/kmmd/pkg/bundle"
	"github.com/kmm-node/kmmd/pkg/images/credentials"
	"github.com/kmm-node/kmmd/pkg/kernel"
	"github.com/kmm-node/kmmd/pkg/source/file"
	"github.com/kmm-node/kmmd/pkg/spec"
)

// collector knows where the parts of a bundle are. A configuration or a kernel
// that can not be read is no reason to have none.
type collector struct {
	o       *options
	c       config // the defaults when there is none that can be read
	wrong   error  // with the configuration
	host    *kernel.Host
	noHost  error
	status  spec.Status
	noState error // why there is no status
}

type collect = func(context.Context, io.Writer) error

func newCollector(o *options) *collector {
	b := &collector{o: o}
	if b.c, b.wrong = readConfig(o.configFile); b.wrong != nil {
		b.c = defaultConfig()
	}
	b.host, b.noHost = kernel.Open(b.c.HostRoot)
	b.status, b.noState = file.ReadStatus(b.c.statusFile())
	return b
}

// at is a path of the node.
func (b *collector) at(path string) string { return filepath.Join(b.c.HostRoot, path) }

// registryFiles are what says where images are asked for on this node.
func (b *collector) registryFiles() []string {
	return b.glob("etc/containerd/certs.d/*/hosts.toml", "etc/containers/registries.conf", "etc/containers/registries.conf.d/*.conf")
}

// glob finds files of the node.
func (b *collector) glob(patterns ...string) []string {
	var out []string
	for _, p := range patterns {
		found, _ := filepath.Glob(b.at(p)) // the patterns are good
		out = append(out, found...)
	}
	return out
}

// redactor knows the secrets of this node, wherever they may turn up.
func (b *collector) redactor() *bundle.Redactor {
	var secrets []string
	for _, name := range credentials.DefaultFiles() {
		data, err := os.ReadFile(b.at(name))
		var doc any
		switch {
		case err != nil:
		case json.Unmarshal(data, &doc) == nil:
			secrets = append(secrets, bundle.Secrets(doc)...)
		default:
			secrets = append(secrets, bundle.SecretsIn(string(data))...)
		}
	}
	for _, name := range b.registryFiles() {
		if doc, err := decodeFile(name); err == nil {
			secrets = append(secrets, bundle.Secrets(doc)...)
		}
	}
	secrets = append(secrets, b.inDocuments()...)
	environment := map[string]any{}
	for _, variable := range os.Environ() {
		key, value, _ := strings.Cut(variable, "=")
		environment[key] = value
		if _, rest, ok := strings.Cut(value, "://"); ok { // http://user:password@proxy
			if at := strings.LastIndex(rest, "@"); at > 0 {
				_, password, _ := strings.Cut(rest[:at], ":")
				secrets = append(secrets, rest[:at], password)
			}
		}
	}
	r := &bundle.Redactor{}
	r.Add(append(secrets, bundle.Secrets(environment)...)...)
	return r
}

// inDocuments are values of build arguments and variables, which a message may
// quote. Short ones, and what the release is made of, would be missed elsewhere.
func (b *collector) inDocuments() []string {
	var out []string
	files, _ := filepath.Glob(filepath.Join(b.c.ModulesDir, "*")) // the pattern is good
	for _, name := range files {
		doc, err := decodeFile(name)
		if err != nil {
			continue
		}
		for _, s := range bundle.Secrets(doc) {
			if len(s) >= 8 && (b.host == nil || !strings.Contains(s, b.host.Release()) && !strings.Contains(b.host.Release(), s)) {
				out = append(out, s)
			}
		}
	}
	return out
}

// parts are all, in the order in which a person would look.
func (b *collector) parts() []bundle.Part {
	parts := []bundle.Part{
		{Name: "version.txt", Collect: b.version},
		{Name: "status.txt", Collect: b.command("status")},
		{Name: "plan.txt", Collect: b.command("plan", "--offline")},
		{Name: "explain.txt", Collect: b.command("explain")},
		{Name: "status.json", Collect: documentPart(b.c.statusFile())},
		{Name: "ledger.json", Collect: documentPart(filepath.Join(b.c.RunDir, "ledger.json"))},
		{Name: "cluster.json", Collect: documentPart(filepath.Join(b.c.StateDir, "cluster.json"))},
		{Name: "firmware.json", Collect: documentPart(filepath.Join(b.c.StateDir, "firmware.json"))},
		{Name: "store.json", Collect: b.store},
		{Name: "config/effective.toml", Collect: b.effective},
		{Name: "config/environment.txt", Collect: environment},
		{Name: "daemon/process.txt", Collect: b.process},
		{Name: "daemon/livez.txt", Collect: b.page("/livez")},
		{Name: "daemon/readyz.txt", Collect: b.page("/readyz")},
		{Name: "daemon/metrics.txt", Collect: b.page("/metrics")},
		{Name: "registries/credentials.txt", Collect: b.credentials},
	}
	configFile := b.o.configFile
	if configFile == "" {
		configFile = defaultConfigFile
	}
	parts = append(parts, bundle.Part{Name: "config/kmmd.toml.json", Collect: documentPart(configFile)})
	for _, name := range b.registryFiles() {
		parts = append(parts, bundle.Part{Name: "registries/" + strings.TrimPrefix(name, b.at("etc")+"/") + ".json", Collect: documentPart(name)})
	}
	parts = append(parts, b.documents()...)
	parts = append(parts, b.kernelParts()...)
	return append(parts, b.moduleParts()...)
}

// documents are the Module documents of the node.
func (b *collector) documents() []bundle.Part {
	entries, err := os.ReadDir(b.c.ModulesDir)
	if err != nil {
		return []bundle.Part{{Name: "documents", Collect: func(context.Context, io.Writer) error { return err }}}
	}
	var parts []bundle.Part
	for _, e := range entries {
		switch strings.ToLower(filepath.Ext(e.Name())) {
		case ".yaml", ".yml", ".toml":
			parts = append(parts, bundle.Part{Name: "documents/" + e.Name() + ".json", Collect: documentPart(filepath.Join(b.c.ModulesDir, e.Name()))})
		}
	}
	return parts
}

// command is what another command of kmmd prints.
func (b *collector) command(args ...string) collect {
	return func(ctx context.Context, w io.Writer) error {
		if b.o.configFile != "" {
			args = append(args, "--config", b.o.configFile)
		}
		cmd := rootCommand()
		cmd.SetOut(w)
		cmd.SetErr(io.Discard)
		cmd.SetArgs(args)
		if err := cmd.ExecuteContext(ctx); !errors.Is(err, errNotAsWanted) {
			return err
		}
		return nil
	}
}

func (b *collector) version(ctx context.Context, w io.Writer) error {
	err := b.command("version")(ctx, w)
	if b.host != nil {
		_, e := fmt.Fprintf(w, "%s\nboot %s\n", b.host.Version(), b.host.BootID())
		err = errors.Join(err, e)
	}
	for _, path := range []string{"etc/os-release", "proc/uptime"} {
		if e := filePart(b.at(path))(ctx, w); !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	return err
}

// effective is the configuration with the defaults.
func (b *collector) effective(_ context.Context, w io.Writer) error {
	if err := toml.NewEncoder(w).Encode(b.c); err != nil {
		return err
	}
	if b.wrong != nil {
		return errors.New("these are the defaults: the configuration file can not be used, as kmmd status says")
	}
	return nil
}

// variables are those of the environment that kmmd goes by.
var variables = []string{"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", clusterVariable, nodeNameVariable,
	"KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT", "GOMEMLIMIT", "GODEBUG", "TMPDIR"}

func environment(_ context.Context, w io.Writer) error {
	out := &printer{w: w}
	out.line("# of kmmd bundle, not of the daemon")
	for _, name := range variables {
		if value, ok := os.LookupEnv(name); ok {
			out.line("%s=%s", name, value)
		}
	}
	return out.err
}

// process tells which process looks after the node.
func (b *collector) process(_ context.Context, w io.Writer) error {
	data, err := readSome(filepath.Join(b.c.RunDir, "lock"))
	if err != nil {
		return err
	}
	pid := strings.TrimSpace(string(data))
	name, err := readSome(filepath.Join("/proc", filepath.Base(pid), "comm"))
	if err != nil {
		_, err = fmt.Fprintf(w, "the last kmmd had pid %s, which does not run here any more\n", pid)
		return err
	}
	_, err = fmt.Fprintf(w, "pid %s is %s", pid, name)
	return err
}

// page asks the daemon on this machine.
func (b *collector) page(path string) collect {
	return func(ctx context.Context, w io.Writer) error {
		host, port, err := net.SplitHostPort(b.c.Listen)
		if err != nil {
			return fmt.Errorf("the daemon serves nothing: listen = %q", b.c.Listen)
		}
		if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
			host = "localhost"
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(host, port)+path, nil)
		if err != nil {
			return err
		}
		resp, err := (&http.Client{Transport: &http.Transport{}}).Do(req) // by no proxy
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			fmt.Fprintln(w, resp.Status)
		}
		_, err = io.Copy(w, resp.Body)
		return err
	}
}
