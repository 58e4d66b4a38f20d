// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/kmm-node/kmmd/pkg/images"
	"github.com/kmm-node/kmmd/pkg/source"
	"github.com/kmm-node/kmmd/pkg/source/cluster"
	"github.com/kmm-node/kmmd/pkg/spec"
	"github.com/kmm-node/kmmd/pkg/version"
)

// clusterEnabled says whether the file, the flag or the environment asks for it.
func (c config) clusterEnabled(o *options) (bool, error) {
	value := os.Getenv(clusterVariable)
	if c.Cluster.Enabled || o.cluster || value == "" {
		return c.Cluster.Enabled || o.cluster, nil
	}
	yes, err := strconv.ParseBool(value)
	if err != nil {
		return false, usageError{fmt.Errorf("%s=%s: true or false is needed", clusterVariable, value)}
	}
	return yes, nil
}

// openCluster gives nil when the node takes part in none. Nobody is asked yet.
func openCluster(c config, o *options, metrics *cluster.Metrics, log *slog.Logger) (*cluster.Source, error) {
	enabled, err := c.clusterEnabled(o)
	if err != nil || !enabled {
		return nil, err
	}
	name := c.Cluster.NodeName
	if name == "" {
		name = os.Getenv(nodeNameVariable)
	}
	if name == "" {
		host, err := os.Hostname()
		if err != nil {
			return nil, fmt.Errorf("find the node's name: %w", err)
		}
		name = strings.ToLower(host) // as the kubelet does
	}
	return cluster.New(cluster.Config{
		Node: name, StateFile: filepath.Join(c.StateDir, "cluster.json"), Log: log, Metrics: metrics,
		Connect: cluster.Access(c.Cluster.Kubeconfig, "kmmd/"+version.String()),
	})
}

// wish is what files and the cluster's last order ask for together. s is nil
// without a cluster.
func wish(files spec.Node, s *cluster.Source) spec.Node {
	if s == nil {
		return files
	}
	saved, ok := s.Saved()
	if !ok {
		return source.Merge(files, nil)
	}
	return source.Merge(files, &saved)
}

// secrets has the cluster's answer in the words of images.
func secrets(s *cluster.Source) func(context.Context, string, []string) []images.PullSecret {
	return func(ctx context.Context, namespace string, names []string) []images.PullSecret {
		var out []images.PullSecret
		for _, secret := range s.Secrets(ctx, namespace, names) {
			out = append(out, images.PullSecret(secret))
		}
		return out
	}
}
