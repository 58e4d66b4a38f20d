// SPDX-License-Identifier: Apache-2.0

// Command generate writes deploy/monitoring/prometheusrule.yaml and
// docs/reference/metrics.md below the root of the repository, its argument.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/kmm-node/kmmd/test/monitoring"
)

func main() {
	if err := generate(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "generate:", err)
		os.Exit(1)
	}
}

func generate(root string) error {
	rules, err := os.ReadFile(filepath.Join(root, "deploy/monitoring/rules.yaml"))
	if err != nil {
		return err
	}
	for path, text := range map[string]string{
		"deploy/monitoring/prometheusrule.yaml": monitoring.PrometheusRule(string(rules)),
		"docs/reference/metrics.md":             monitoring.Page(monitoring.Metrics()),
	} {
		if err := os.WriteFile(filepath.Join(root, path), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}
