// SPDX-License-Identifier: Apache-2.0

// Command run is `make cluster`: a control plane with played nodes, until Ctrl-C.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"k8s.io/client-go/rest"

	"github.com/kmm-node/kmmd/test/cluster/lab"
	"github.com/kmm-node/kmmd/test/cluster/play"
)

func main() {
	nodes := flag.Int("nodes", 3, "how many nodes are played: node-1 and so on")
	dir := flag.String("dir", ".lab/cluster", "where kubeconfig files are put, and bin/ is")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *dir, *nodes); err != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, dir string, nodes int) error {
	started := time.Now()
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	cluster, err := lab.Start(ctx, lab.Options{
		Bin: filepath.Join(dir, "bin"), Logs: filepath.Join(dir, "log"),
		ControllerManager: true, Scheduler: true, Install: []string{"deploy/base"},
	})
	if err != nil {
		return err
	}
	defer cluster.Stop()
	watcher, err := cluster.StartWatcher(ctx, "run")
	if err != nil {
		return err
	}
	defer watcher.Kill()
	player, err := play.New(cluster.Config())
	if err != nil {
		return err
	}
	names, err := addNodes(ctx, player, nodes)
	if err != nil {
		return err
	}
	files, err := writeAccess(cluster, dir, names)
	defer func() {
		for _, file := range files {
			os.Remove(file)
		}
	}()
	if err != nil {
		return err
	}
	usage(cluster, dir, names, time.Since(started))
	player.Run(ctx)
	fmt.Println("cluster: stopped, logs are in", filepath.Join(dir, "log"))
	return nil
}

func addNodes(ctx context.Context, player *play.Player, n int) (names []string, err error) {
	nodes := make([]play.Node, n)
	for i := range nodes {
		nodes[i] = play.Node{Name: fmt.Sprintf("node-%d", i+1), Labels: map[string]string{"node-role.kubernetes.io/worker": ""}}
		names = append(names, nodes[i].Name)
	}
	return names, player.AddNodes(ctx, nodes...)
}

// writeAccess writes a kubeconfig for the administrator and for each node's kubelet,
// and returns their paths.
func writeAccess(cluster *lab.Cluster, dir string, nodes []string) (files []string, err error) {
	configs := map[string]func() (*rest.Config, error){
		"kubeconfig": func() (*rest.Config, error) { return cluster.Config(), nil },
	}
	for _, node := range nodes {
		configs[node+".kubeconfig"] = func() (*rest.Config, error) { return cluster.Kubelet(node) }
	}
	for name, make := range configs {
		config, err := make()
		if err != nil {
			return files, err
		}
		data, err := lab.Kubeconfig(config, "")
		if err != nil {
			return files, err
		}
		files = append(files, filepath.Join(dir, name))
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			return files, fmt.Errorf("write kubeconfig: %w", err)
		}
	}
	return files, nil
}

func usage(cluster *lab.Cluster, dir string, nodes []string, took time.Duration) {
	fmt.Printf(`cluster: ready after %.1f s at https://127.0.0.1:%d, with deploy/base installed, kmm-watcher at work, and %d nodes
of which only the Node objects are real: pods on them become Ready, but no container runs, and no kmmd. So nodes are told what to
run (kubectl get nmc -o yaml), and do not answer.

In another terminal:

    export KUBECONFIG=%s/kubeconfig PATH=%s/bin:$PATH
    kubectl get nodes
    kubectl apply -f MODULE.yaml
    kubectl get modules,nmc -A

`, took.Seconds(), cluster.Port(), len(nodes), dir, dir)
	if len(nodes) > 0 {
		fmt.Printf("%s/%s.kubeconfig is what the kubelet of %s has, and so on.\n", dir, nodes[0], nodes[0])
	}
	fmt.Println("Ctrl-C stops all.")
}
