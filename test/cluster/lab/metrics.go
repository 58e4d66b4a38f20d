// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"k8s.io/client-go/kubernetes"
)

// Count is how often the API server has answered one kind of request since it
// started. It does not say to whom; Requests does.
type Count struct {
	Verb                         string // GET LIST WATCH POST PUT PATCH APPLY DELETE DELETECOLLECTION CONNECT
	Group, Resource, Subresource string
	Code                         string
	N                            int
}

var metricLabel = regexp.MustCompile(`(\w+)="([^"]*)"`)

// Counts reads apiserver_request_total. Watches are counted when they end.
func (c *Cluster) Counts(ctx context.Context) ([]Count, error) {
	client, err := kubernetes.NewForConfig(c.admin)
	if err != nil {
		return nil, fmt.Errorf("read metrics: %w", err)
	}
	data, err := client.Discovery().RESTClient().Get().AbsPath("/metrics").DoRaw(ctx)
	if err != nil {
		return nil, fmt.Errorf("read metrics: %w", err)
	}
	var out []Count
	lines := bufio.NewScanner(bytes.NewReader(data))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		// apiserver_request_total{code="200",component="apiserver",dry_run="",group="",resource="nodes",…,verb="GET",version="v1"} 12
		line, ok := strings.CutPrefix(lines.Text(), "apiserver_request_total{")
		labels, value, ok2 := strings.Cut(line, "} ")
		if !ok || !ok2 {
			continue
		}
		n, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return nil, fmt.Errorf("read metrics: %w", err)
		}
		of := map[string]string{}
		for _, m := range metricLabel.FindAllStringSubmatch(labels, -1) {
			of[m[1]] = m[2]
		}
		out = append(out, Count{
			Verb: of["verb"], Group: of["group"], Resource: of["resource"], Subresource: of["subresource"], Code: of["code"], N: int(n),
		})
	}
	return out, lines.Err()
}
