// SPDX-License-Identifier: Apache-2.0

// Command kmm-watcher is the cluster side of kmmd: it hands Modules out to nodes
// and turns what they report into labels, status, events and DaemonSets. It is
// flags and wiring; what it does is in pkg/watcher. "kmm-watcher status", or the
// program under the name kubectl-kmm, shows a person what is there.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"k8s.io/klog/v2"

	"github.com/kmm-node/kmmd/pkg/exit"
	"github.com/kmm-node/kmmd/pkg/version"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := command(os.Args[0]).ExecuteContext(ctx)
	stop()
	os.Exit(exitCode(err))
}

// usageError ends the program with exit.Usage.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// exitCode says on standard error what is wrong.
func exitCode(err error) int {
	if err == nil {
		return int(exit.OK)
	}
	fmt.Fprintln(os.Stderr, "kmm-watcher:", err)
	if usage := (usageError{}); errors.As(err, &usage) {
		return int(exit.Usage)
	}
	return int(exit.NotAsWanted)
}

// options are the flags.
type options struct {
	kubeconfig   string
	listen       string
	namespace    string
	account      string
	group        string
	workers      int
	leaderElect  bool
	identity     string
	showsVersion bool
	images       imageFlags
	site         siteFlags
}

// command is what the program does under its name: as kubectl-kmm, a plugin of
// kubectl, it only shows.
func command(program string) *cobra.Command {
	cmd := watcherCommand()
	if strings.TrimSuffix(filepath.Base(program), ".exe") == plugin {
		cmd = pluginCommand()
	}
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	return cmd
}

// atMost is cobra.MaximumNArgs with exit.Usage.
func atMost(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) > n {
			return usageError{fmt.Errorf("unexpected argument %q: see %s --help", args[n], cmd.CommandPath())}
		}
		return nil
	}
}

func watcherCommand() *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:   "kmm-watcher",
		Short: "hand kernel Modules out to the nodes of a cluster, and say what became of them",
		Args:  atMost(0), SilenceUsage: true, SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.showsVersion {
				fmt.Fprintln(cmd.OutOrStdout(), version.String())
				return nil
			}
			return run(cmd.Context(), o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.kubeconfig, "kubeconfig", "", "file that says how to reach the API server (default: the pod's ServiceAccount)")
	f.StringVar(&o.listen, "listen", ":9809", "address of /metrics, /livez, /readyz, and /status; empty serves nothing")
	f.StringVar(&o.namespace, "namespace", "", "namespace of the lease (default: $"+namespaceVariable+", else "+defaultNamespace+")")
	f.StringVar(&o.account, "agent-service-account", "kmm-system/kmmd", "NAMESPACE/NAME of the account of kmmd on the nodes, which may read pull secrets")
	f.StringVar(&o.group, "agent-group", "", "a group that may read them too: system:nodes, where kmmd uses the kubelet's identity")
	f.IntVar(&o.workers, "workers", 8, "how many nodes and Modules are looked at side by side")
	f.BoolVar(&o.leaderElect, "leader-elect", true, "wait for a lease, so that several can run")
	f.StringVar(&o.identity, "identity", "", "name in the lease; no two may have the same (default: $"+podVariable+", else the host's name)")
	o.images.register(cmd)
	o.site.register(cmd)
	f.BoolVar(&o.showsVersion, "version", false, "print the version and end")
	cmd.AddCommand(statusCommand("kmm-watcher"))
	return cmd
}

// defaultNamespace is where deploy/ puts kmm-watcher.
const defaultNamespace = "kmm-system"

// Variables of the environment that kmm-watcher reads; the manifests in deploy/ set
// them. Its libraries also read HTTPS_PROXY, HTTP_PROXY and NO_PROXY (registries and
// API server: name the latter in NO_PROXY where the proxy does not lead to it).
const (
	// namespaceVariable is the pod's namespace: that of the lease and of DaemonSet
	// kmmd, unless --namespace is given.
	namespaceVariable = "POD_NAMESPACE"
	// podVariable is the pod's name: the one in the lease, unless --identity is given.
	podVariable = "POD_NAME"
)

// fill finds what the flags leave open.
func (o *options) fill() (err error) {
	o.namespace = cmp.Or(o.namespace, os.Getenv(namespaceVariable), defaultNamespace)
	if o.identity = cmp.Or(o.identity, os.Getenv(podVariable)); o.identity != "" {
		return nil
	}
	if o.identity, err = os.Hostname(); err != nil {
		return usageError{fmt.Errorf("find a name for the lease: %w: give --identity", err)}
	}
	return nil
}

func run(ctx context.Context, o options) error {
	if err := o.fill(); err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	klog.SetSlogLogger(log)
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	l, err := newLeader(o, log, registry)
	if err != nil {
		return err
	}
	log.Info("kmm-watcher starts", "version", version.String(), "identity", o.identity)
	g, ctx := errgroup.WithContext(ctx)
	if o.listen != "" {
		listener, err := net.Listen("tcp", o.listen)
		if err != nil {
			return fmt.Errorf("listen for /metrics: %w", err)
		}
		log.Info("serving", "address", listener.Addr().String())
		site, err := o.site.site(l, registry)
		if err != nil {
			return err
		}
		g.Go(func() error { return site.Serve(ctx, listener) })
	}
	g.Go(func() error { return l.run(ctx) })
	return g.Wait()
}
