// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/kmm-node/kmmd/pkg/api/client"
	"github.com/kmm-node/kmmd/test/cluster/lab"
	"github.com/kmm-node/kmmd/test/cluster/play"
)

// stage is a cluster of one size, and who acts in it.
type stage struct {
	o       options
	nodes   []play.Node
	dir     string // for files, removed in the end
	cluster *lab.Cluster
	player  *play.Player
	kube    kubernetes.Interface
	api     *client.Client

	agents, watcher *process
}

// setUp starts a control plane with n Node objects, on which nothing runs yet.
func setUp(ctx context.Context, o options, n int) (_ *stage, err error) {
	s := &stage{o: o}
	defer func() {
		if err != nil {
			s.tearDown()
		}
	}()
	if s.dir, err = os.MkdirTemp("", "kmmd-bench."); err != nil {
		return nil, err
	}
	logs := o.logs
	if logs != "" {
		logs = filepath.Join(logs, strconv.Itoa(n))
	}
	if s.cluster, err = lab.Start(ctx, lab.Options{Bin: o.bin, Logs: logs, Install: []string{"deploy/base"}}); err != nil {
		return nil, err
	}
	config := s.cluster.Config()
	config.UserAgent = "bench-cluster"
	if s.kube, err = kubernetes.NewForConfig(config); err != nil {
		return nil, err
	}
	if s.api, err = client.New(config); err != nil {
		return nil, err
	}
	_, err = s.kube.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{})
	if err != nil {
		return nil, err
	}
	return s, s.addNodes(ctx, n)
}

func (s *stage) addNodes(ctx context.Context, n int) (err error) {
	if s.player, err = play.New(s.cluster.Config()); err != nil {
		return err
	}
	for i := range n {
		s.nodes = append(s.nodes, play.Node{
			Name: fmt.Sprintf("worker-%04d", i), Labels: nodeLabels(i), Kernel: kernel,
			BootID: fmt.Sprintf("%08x-5d1b-4d5c-9a53-0a6f6d0b7c11", i),
		})
	}
	return s.player.AddNodes(ctx, s.nodes...)
}

func (s *stage) tearDown() {
	for _, p := range []*process{s.watcher, s.agents} {
		if p != nil {
			p.Stop()
		}
	}
	if s.cluster != nil {
		s.cluster.Stop()
	}
	os.RemoveAll(s.dir)
}

// tokens gives each node's agent its identity.
func (s *stage) tokens(ctx context.Context) (*fleet, error) {
	config := s.cluster.Config()
	f := &fleet{Host: config.Host, CA: config.CAData, Nodes: make([]agentNode, len(s.nodes))}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(16)
	for i, n := range s.nodes {
		group.Go(func() error {
			token, err := s.cluster.Token(ctx, "kmm-system", "kmmd", n.Name)
			f.Nodes[i] = agentNode{Name: n.Name, Token: token, BootID: n.BootID, Kernel: n.Kernel}
			return err
		})
	}
	return f, group.Wait()
}

// startAgents returns when all agents watch.
func (s *stage) startAgents(ctx context.Context, f *fleet) error {
	data, err := json.Marshal(f)
	if err != nil {
		return err
	}
	path := filepath.Join(s.dir, "fleet.json")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if s.agents, err = s.start("agents", self, "-agents", path); err != nil {
		return err
	}
	return s.agents.waitFor(ctx, "start agents", 50*time.Millisecond, func() (bool, error) {
		return strings.Contains(s.agents.Log(), allWatch), nil
	})
}

// startWatcher returns when it knows the cluster.
func (s *stage) startWatcher(ctx context.Context, name string) error {
	config, err := s.cluster.ServiceAccount(ctx, "kmm-system", "kmm-watcher", "")
	if err != nil {
		return err
	}
	data, err := lab.Kubeconfig(config, "")
	if err != nil {
		return err
	}
	kubeconfig := filepath.Join(s.dir, "watcher.kubeconfig")
	if err := os.WriteFile(kubeconfig, data, 0o600); err != nil {
		return err
	}
	s.watcher, err = s.start(name, s.o.watcher, "--kubeconfig", kubeconfig, "--listen", "127.0.0.1:0")
	if err != nil {
		return err
	}
	return s.watcher.waitFor(ctx, "start watcher", 10*time.Millisecond, func() (bool, error) {
		// Before it leads it is ready, to take over.
		return strings.Contains(s.watcher.Log(), "the cluster is known"), nil
	})
}

// quiet waits until the watcher and the agents have written nothing for a while:
// longer than the watcher puts the status of a Module off. It asks neither of
// them, since that would take their time.
func (s *stage) quiet(ctx context.Context) error {
	pause := 2500*time.Millisecond + time.Duration(len(s.nodes))*time.Millisecond
	since := time.Now()
	mark, err := s.cluster.Mark(ctx)
	if err != nil {
		return err
	}
	return s.watcher.waitFor(ctx, "wait for quiet", 500*time.Millisecond, func() (bool, error) {
		requests, err := s.cluster.Requests(ctx, mark)
		if err != nil {
			return false, err
		}
		if slices.ContainsFunc(requests, func(r lab.Request) bool { return about(&r) != "" }) {
			since = time.Now()
		}
		mark, err = s.cluster.Mark(ctx)
		return time.Since(since) > pause, err
	})
}

// modulesReady reports whether all Modules say that all nodes run them.
func (s *stage) modulesReady(ctx context.Context) (bool, error) {
	list, err := s.api.Modules(namespace).List(ctx, metav1.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return false, err
	}
	for i := range list.Items {
		m := &list.Items[i]
		n := m.Status.ModuleLoader
		if m.Status.ObservedGeneration != m.Generation || int(n.DesiredNumber) != len(s.nodes) || int(n.AvailableNumber) != len(s.nodes) {
			return false, nil
		}
		for _, c := range m.Status.Conditions {
			if c.Type == "Degraded" && c.Status == metav1.ConditionTrue {
				return false, fmt.Errorf("module %s: %s", m.Name, c.Message)
			}
			if c.Type == "Ready" && c.Status != metav1.ConditionTrue {
				return false, nil
			}
		}
	}
	return len(list.Items) == s.o.modules, nil
}

// verify asks the nodes themselves.
func (s *stage) verify(ctx context.Context) error {
	nodes, err := s.kube.CoreV1().Nodes().List(ctx, metav1.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return err
	}
	var errs []error
	for i := range nodes.Items {
		n := 0
		for k := range nodes.Items[i].Labels {
			if strings.HasSuffix(k, ".ready") {
				n++
			}
		}
		if n != s.o.modules {
			errs = append(errs, fmt.Errorf("node %s has %d labels of ready modules, not %d", nodes.Items[i].Name, n, s.o.modules))
		}
	}
	if len(nodes.Items) != len(s.nodes) {
		errs = append(errs, fmt.Errorf("there are %d nodes, not %d", len(nodes.Items), len(s.nodes)))
	}
	return errors.Join(errs[:min(len(errs), 5)]...)
}
