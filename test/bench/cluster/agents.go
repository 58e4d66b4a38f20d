// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"k8s.io/client-go/rest"

	"github.com/kmm-node/kmmd/pkg/source/cluster"
	"github.com/kmm-node/kmmd/pkg/spec"
)

// fleet is what the process with the agents is told.
type fleet struct {
	Host  string      `json:"host"`
	CA    []byte      `json:"ca"`
	Nodes []agentNode `json:"nodes"`
}

type agentNode struct {
	Name   string `json:"name"`
	Token  string `json:"token"` // bound to the Node
	BootID string `json:"bootID"`
	Kernel string `json:"kernel"`
}

// starting is how many agents come up side by side. They share connections, as
// HTTP/2 allows, and would open one each if all came at once.
const starting = 64

// allWatch is said when every agent has heard the API server.
const allWatch = "all agents watch"

// runAgents is the process with the agents, until ctx is done.
func runAgents(ctx context.Context, path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var f fleet
	if err := json.Unmarshal(data, &f); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	places := make(chan struct{}, starting)
	var running, hearing sync.WaitGroup
	for _, n := range f.Nodes {
		a := &agent{node: n, states: map[string]spec.ModuleStatus{}, heard: make(chan struct{})}
		if a.source, err = cluster.New(cluster.Config{
			Node: n.Name, Log: log.With("node", n.Name), Connect: func() (*rest.Config, error) { return f.config(n), nil },
		}); err != nil {
			return err
		}
		select {
		case places <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		running.Go(func() { err = a.source.Watch(ctx, a.set) })
		hearing.Go(func() {
			select {
			case <-a.heard:
			case <-ctx.Done():
			}
			<-places
		})
	}
	hearing.Wait()
	fmt.Println(allWatch)
	running.Wait()
	return nil
}

// config is a node's access. All have the same TLS settings, so that client-go
// has them share connections.
func (f *fleet) config(n agentNode) *rest.Config {
	return &rest.Config{
		Host: f.Host, BearerToken: n.Token, TLSClientConfig: rest.TLSClientConfig{CAData: f.CA}, QPS: -1, UserAgent: "kmmd/bench",
	}
}

// agent stands in for pkg/agent: it is told what is wanted, and at once says
// that it is so.
type agent struct {
	node   agentNode
	source *cluster.Source

	// Of set only.
	states map[string]spec.ModuleStatus
	heard  chan struct{} // closed by the first call
	told   bool
}

// set is called by one goroutine.
func (a *agent) set(n spec.Node) {
	if !a.told {
		a.told = true
		close(a.heard)
	}
	status := spec.Status{
		Version: "v1.0.0", KernelRelease: a.node.Kernel, BootID: a.node.BootID, ObservedGeneration: n.Generation,
		Facts: spec.Facts{SecureBoot: "no", Lockdown: "none", SignatureEnforced: "no"},
	}
	states := map[string]spec.ModuleStatus{}
	for i := range n.Modules {
		m := &n.Modules[i]
		s, ok := a.states[m.Key()]
		if !ok || s.Revision != m.Revision {
			s = load(m, a.node.Kernel)
		}
		states[m.Key()] = s
		status.Modules = append(status.Modules, s)
	}
	a.states = states
	for i := range n.Refused {
		r := &n.Refused[i]
		status.Refused = append(status.Refused, spec.ModuleStatus{
			Namespace: r.Namespace, Name: r.Name, Revision: r.Revision, State: spec.StateFailed, Reason: r.Reason, Message: r.Message,
		})
	}
	_ = a.source.Report(context.Background(), status) // it is always nil
}

// load is the status of a Module that was loaded just now.
func load(m *spec.Module, kernel string) spec.ModuleStatus {
	s := spec.ModuleStatus{
		Namespace: m.Metadata.Namespace, Name: m.Metadata.Name, Revision: m.Revision, State: spec.StateLoaded, Since: time.Now(),
	}
	choice, err := m.For(spec.Release(kernel))
	if err != nil {
		s.State, s.Reason, s.Message = spec.StateFailed, spec.ReasonNoMapping, err.Error()
		return s
	}
	s.Image, s.Digest = choice.Image, "sha256:3f53bb5f2d1f0c1b2a6c7d8e9fa0b1c2d3e4f5061728394a5b6c7d8e9fa0b1c2"
	s.Kernel = []spec.LoadedModule{{
		Name: choice.ModuleName, BuildID: "8d3b8a9f0c1d2e3f4a5b6c7d8e9fa0b1c2d3e4f5", Parameters: choice.Parameters, Taint: "OE",
	}}
	return s
}
