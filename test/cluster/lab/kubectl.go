// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"go.yaml.in/yaml/v3"
)

// Run runs kubectl as the administrator and returns its standard output. An error
// has all that it said.
func (c *Cluster) Run(ctx context.Context, stdin string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(c.options.Bin, "kubectl"), args...)
	cmd.Dir = c.repo
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.KubeconfigPath(), "HOME="+c.path("home"))
	cmd.Stdin = strings.NewReader(stdin)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var out, all bytes.Buffer
	cmd.Stdout, cmd.Stderr = io.MultiWriter(&out, &all), &all
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("run kubectl %s: %w: %s", strings.Join(args, " "), err, all.Bytes())
	}
	return out.String(), nil
}

// Install applies manifests: files, directories of YAML files, or directories
// with a kustomization; a relative path is below the root of the repository.
// Deployments and DaemonSets are left out: nobody could run their images. It returns when new
// kinds are known.
func (c *Cluster) Install(ctx context.Context, paths ...string) error {
	var manifests []byte
	for _, path := range paths {
		data, err := c.manifests(ctx, path)
		if err != nil {
			return fmt.Errorf("install %s: %w", path, err)
		}
		manifests = append(append(manifests, "\n---\n"...), data...)
	}
	manifests, definitions, err := withoutWorkloads(manifests)
	if err != nil || len(manifests) == 0 {
		return err
	}
	if _, err := c.Run(ctx, string(manifests), "apply", "--server-side", "-f", "-"); err != nil {
		return err
	}
	if len(definitions) == 0 {
		return nil
	}
	return c.Served(ctx, definitions...)
}

// Served returns when the API server serves the kinds of these definitions, which is
// some time after it has taken, and even established, them.
func (c *Cluster) Served(ctx context.Context, definitions ...string) error {
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	return c.apiServer.waitFor(ctx, func() error {
		_, err := c.Run(ctx, "", "get", strings.Join(definitions, ","), "-A")
		return err
	})
}

func (c *Cluster) manifests(ctx context.Context, path string) ([]byte, error) {
	if !filepath.IsAbs(path) {
		path = filepath.Join(c.repo, path)
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return os.ReadFile(path)
	}
	if _, err := os.Stat(filepath.Join(path, "kustomization.yaml")); err == nil {
		out, err := c.Run(ctx, "", "kustomize", path)
		return []byte(out), err
	}
	files, err := filepath.Glob(filepath.Join(path, "*.yaml"))
	if err != nil {
		return nil, err
	}
	var out []byte
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		out = append(append(out, "\n---\n"...), data...)
	}
	return out, nil
}

// withoutWorkloads returns the documents that are no Deployment or DaemonSet, and
// the names of the CustomResourceDefinitions among them.
func withoutWorkloads(manifests []byte) (kept []byte, definitions []string, err error) {
	for in := yaml.NewDecoder(bytes.NewReader(manifests)); ; {
		var document map[string]any
		if err := in.Decode(&document); errors.Is(err, io.EOF) {
			return kept, definitions, nil
		} else if err != nil {
			return nil, nil, fmt.Errorf("read manifests: %w", err)
		}
		kind, _ := document["kind"].(string)
		if kind == "" || slices.Contains([]string{"Deployment", "DaemonSet"}, kind) {
			continue
		}
		if metadata, _ := document["metadata"].(map[string]any); kind == "CustomResourceDefinition" {
			definitions = append(definitions, fmt.Sprint(metadata["name"]))
		}
		data, err := yaml.Marshal(document)
		if err != nil {
			return nil, nil, fmt.Errorf("write manifests: %w", err)
		}
		kept = append(append(kept, "---\n"...), data...)
	}
}
