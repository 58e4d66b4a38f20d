// SPDX-License-Identifier: Apache-2.0

// Command schema holds what is in deploy/monitoring, its argument, against the
// types that others read it with: the dashboard against those generated from
// Grafana's own schema, with all panels and queries, and the objects for the
// Prometheus operator against its API. A field that is not known is an error.
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/cog/plugins"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"sigs.k8s.io/yaml"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: schema DIR")
		os.Exit(2)
	}
	dir := os.Args[1]
	err := errors.Join(
		checkDashboard(filepath.Join(dir, "dashboard.json")),
		checkObjects(filepath.Join(dir, "prometheusrule.yaml"), func() any { return &monitoringv1.PrometheusRule{} }),
		checkObjects(filepath.Join(dir, "podmonitor.yaml"), func() any { return &monitoringv1.PodMonitor{} }),
	)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func checkDashboard(path string) error {
	plugins.RegisterDefaultPlugins() // panels and queries by their type
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read dashboard: %w", err)
	}
	var d dashboard.Dashboard
	if err := cause(d.UnmarshalJSONStrict(data)); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if err := cause(d.Validate()); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// cause is nil for an empty list of errors, which the generated code returns as an
// error when there is none (v0.0.22).
func cause(err error) error {
	var list cog.BuildErrors
	if errors.As(err, &list) && len(list) == 0 {
		return nil
	}
	return err
}

func checkObjects(path string, empty func() any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read objects: %w", err)
	}
	for _, document := range strings.Split(string(data), "\n---\n") {
		if err := yaml.UnmarshalStrict([]byte(document), empty()); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return nil
}
