// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
)

// result is what one size has shown.
type result struct {
	nodes       int
	loadAverage string // before

	connect, load, change, rest, beats, off, on, again *stretch

	offTook, onTook time.Duration // medians
	object          [3]int        // bytes of a NodeModulesConfig: all, its status, its managedFields
}

const (
	// flips is how many nodes are changed one after the other.
	flips = 10
	// patience is how long one thing may take.
	patience = 5 * time.Minute
)

func measureSize(ctx context.Context, o options, n int) (*result, error) {
	r := &result{nodes: n, loadAverage: loadAverage()}
	s, err := setUp(ctx, o, n)
	if err != nil {
		return nil, err
	}
	defer s.tearDown()
	say("%d Node objects are there", n)
	f, err := s.tokens(ctx)
	if err != nil {
		return nil, err
	}
	say("%d agents have tokens", n)
	for _, phase := range []struct {
		what string
		to   **stretch
		do   func(context.Context) error
	}{
		{"agents and watcher start", &r.connect, func(ctx context.Context) error {
			if err := s.startAgents(ctx, f); err != nil {
				return err
			}
			return s.startWatcher(ctx, "watcher")
		}},
		{"first load", &r.load, s.load},
		{"one Module changes", &r.change, s.change},
		{"rest", &r.rest, s.rest},
		{"kubelets report", &r.beats, s.beats},
		{"a node leaves a Module", &r.off, func(ctx context.Context) (err error) { r.offTook, err = s.flip(ctx, nil, gone); return err }},
		{"a node gets a Module", &r.on, func(ctx context.Context) (err error) {
			pool := "a"
			r.onTook, err = s.flip(ctx, &pool, ready)
			return err
		}},
		{"the watcher starts anew", &r.again, s.startAgain},
	} {
		ctx, cancel := context.WithTimeout(ctx, patience+o.rest)
		*phase.to, err = s.measure(ctx, phase.what, func() error { return phase.do(ctx) })
		cancel()
		if err != nil {
			return nil, err
		}
	}
	if n := r.change.count(aboutSpec); n < len(s.nodes) {
		return nil, fmt.Errorf("a Module changed and said that it is ready everywhere, but only %d nodes were told", n)
	}
	r.object, err = s.objectSize(ctx)
	return r, err
}

func (s *stage) load(ctx context.Context) error {
	for i := range s.o.modules {
		if _, err := s.api.Modules(namespace).Create(ctx, module(i+1, s.o.modules), metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	return s.settle(ctx)
}

// change gives one Module another parameter.
func (s *stage) change(ctx context.Context) error {
	m := module(1, s.o.modules)
	patch, err := json.Marshal([]map[string]any{{
		"op": "add", "path": "/spec/moduleLoader/container/modprobe/parameters/-", "value": "rx_copybreak=256",
	}})
	if err != nil {
		return err
	}
	if _, err := s.api.Modules(namespace).Patch(ctx, m.Name, types.JSONPatchType, patch, metav1.PatchOptions{}); err != nil {
		return err
	}
	return s.settle(ctx)
}

// settle waits until all Modules are ready everywhere, and nobody writes.
func (s *stage) settle(ctx context.Context) error {
	err := s.watcher.waitFor(ctx, "wait until modules are ready", 500*time.Millisecond, func() (bool, error) { return s.modulesReady(ctx) })
	if err != nil {
		return err
	}
	if err := s.quiet(ctx); err != nil {
		return err
	}
	return s.verify(ctx)
}

func (s *stage) rest(ctx context.Context) error {
	select {
	case <-time.After(s.o.rest):
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return nil
}

// beats has each kubelet report that all is as it was, as they do every five
// minutes.
func (s *stage) beats(ctx context.Context) error {
	group, sending := errgroup.WithContext(ctx)
	group.SetLimit(16)
	for _, n := range s.nodes {
		group.Go(func() error { return s.player.SetNodeReady(sending, n.Name, true) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return s.quiet(ctx)
}

// flip changes a label of some nodes, one after the other, which takes them out of
// the last Module or back in. It gives the median of how long that took.
func (s *stage) flip(ctx context.Context, pool *string, over func(context.Context, *stage, string) (bool, error)) (time.Duration, error) {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": map[string]*string{poolLabel: pool}}})
	if err != nil {
		return 0, err
	}
	var took []time.Duration
	for i := range flips {
		name := s.nodes[i*len(s.nodes)/flips].Name
		began := time.Now()
		if _, err := s.kube.CoreV1().Nodes().Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
			return 0, err
		}
		if err := s.watcher.waitFor(ctx, "wait for "+name, 10*time.Millisecond, func() (bool, error) { return over(ctx, s, name) }); err != nil {
			return 0, err
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	return took[flips/2], s.quiet(ctx)
}

// gone: the node has answered that it has the last Module no more.
func gone(ctx context.Context, s *stage, node string) (bool, error) {
	o, err := s.api.NodeModulesConfigs().Get(ctx, node, metav1.GetOptions{ResourceVersion: "0"})
	if err != nil {
		return false, err
	}
	return o.Status.ObservedGeneration == o.Generation && len(o.Status.Modules) == s.o.modules-1, nil
}

// ready: the node has the last Module's label.
func ready(ctx context.Context, s *stage, node string) (bool, error) {
	o, err := s.kube.CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{ResourceVersion: "0"})
	if err != nil {
		return false, err
	}
	_, ok := o.Labels[v1beta1.ReadyLabel(namespace, module(s.o.modules, s.o.modules).Name)]
	return ok, nil
}

// startAgain ends the watcher and starts another, which finds everything done.
func (s *stage) startAgain(ctx context.Context) error {
	s.watcher.Stop()
	if err := s.startWatcher(ctx, "watcher-again"); err != nil {
		return err
	}
	return s.quiet(ctx)
}

func (s *stage) objectSize(ctx context.Context) (out [3]int, err error) {
	o, err := s.api.NodeModulesConfigs().Get(ctx, s.nodes[0].Name, metav1.GetOptions{})
	if err != nil {
		return out, err
	}
	for i, part := range []any{o, o.Status, o.ManagedFields} {
		data, err := json.Marshal(part)
		if err != nil {
			return out, fmt.Errorf("marshal NodeModulesConfig: %w", err)
		}
		out[i] = len(data)
	}
	return out, nil
}
