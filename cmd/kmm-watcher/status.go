// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/kmm-node/kmmd/pkg/api/client"
	"github.com/kmm-node/kmmd/pkg/page"
	"github.com/kmm-node/kmmd/pkg/version"
	"github.com/kmm-node/kmmd/pkg/watcher"
)

// plugin is the name under which kubectl finds the program as "kubectl kmm".
const plugin = "kubectl-kmm"

func pluginCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: plugin, Annotations: map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl kmm"},
		Short:   "look at kernel Modules on the nodes of a cluster",
		Version: version.String(), SilenceUsage: true, SilenceErrors: true,
		Args: atMost(0), RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(statusCommand("kubectl kmm"))
	return cmd
}

// view is what somebody wants to see.
type view struct {
	kubeconfig, context string
	namespace           string
	all, watch          bool
	output              string
	module              string
}

// statusCommand shows how Modules stand, with the rights of whoever asks.
func statusCommand(program string) *cobra.Command {
	var v view
	cmd := &cobra.Command{
		Use:   "status [MODULE]",
		Short: "show how Modules stand on nodes; of one Module, each node with its reason",
		Example: fmt.Sprintf("  %s status -A\n  %s status my-driver -n drivers --watch\n  %s status -A -o json",
			program, program, program),
		Args: atMost(1), SilenceUsage: true, SilenceErrors: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				v.module = args[0]
			}
			return v.show(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f := cmd.Flags()
	f.StringVar(&v.kubeconfig, "kubeconfig", "", "file that says how to reach the API server (default: $KUBECONFIG, ~/.kube/config, or the pod's ServiceAccount)")
	f.StringVar(&v.context, "context", "", "context of that file (default: the current one)")
	f.StringVarP(&v.namespace, "namespace", "n", "", "namespace of the Modules (default: that of the context)")
	f.BoolVarP(&v.all, "all-namespaces", "A", false, "Modules of all namespaces")
	f.BoolVarP(&v.watch, "watch", "w", false, "show it again whenever it changes, until Ctrl-C")
	f.StringVarP(&v.output, "output", "o", "table", "table or json")
	return cmd
}

func (v *view) show(ctx context.Context, out, notes io.Writer) error {
	switch {
	case v.output != "table" && v.output != "json":
		return usageError{fmt.Errorf("--output %q: table or json", v.output)}
	case v.all && v.namespace != "":
		return usageError{errors.New("--namespace and --all-namespaces: one of them")}
	case v.all && v.module != "":
		return usageError{errors.New("MODULE and --all-namespaces: the Module's namespace is needed, by --namespace")}
	}
	reader, err := v.reader()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	wait, err := reader.Start(ctx)
	defer wait()
	defer cancel()
	if err != nil {
		return fmt.Errorf("see the cluster: %w", err)
	}
	if reader.WithoutValidations() {
		fmt.Fprintln(notes, "note: PreflightValidations can not be read and are not shown")
	}
	first := reader.Snapshot()
	if err := v.print(out, first); err != nil || !v.watch {
		return err
	}
	return v.follow(ctx, reader, first, out, notes)
}

// reader finds the API server as kubectl does.
func (v *view) reader() (*watcher.Reader, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = v.kubeconfig
	file := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: v.context})
	cfg, err := file.ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("find the API server: %w", err)
	}
	cfg.UserAgent = "kubectl-kmm/" + version.String()
	if v.namespace == "" && !v.all {
		if v.namespace, _, err = file.Namespace(); err != nil {
			return nil, fmt.Errorf("find the namespace: %w", err)
		}
	}
	kube, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("make client: %w", err)
	}
	own, err := client.New(cfg)
	if err != nil {
		return nil, err
	}
	return watcher.NewReader(kube, own, v.namespace)
}

// pace is how often the screen changes at most.
const pace = time.Second

// follow prints again what has changed since last was printed, until ctx is done.
func (v *view) follow(ctx context.Context, r *watcher.Reader, last page.Cluster, out, notes io.Writer) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-r.Failed():
			fmt.Fprintln(notes, "note: asked again:", err)
			continue
		case <-r.Changed():
		}
		now := r.Snapshot()
		last.At = now.At
		if !reflect.DeepEqual(last, now) {
			if err := v.print(out, now); err != nil {
				return err
			}
		}
		last = now
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pace):
		}
	}
}

func (v *view) print(w io.Writer, c page.Cluster) error {
	if v.module != "" {
		c.Modules = slices.DeleteFunc(slices.Clone(c.Modules), func(m page.Module) bool { return m.Name != v.module })
		c.Validations = nil
		if len(c.Modules) == 0 && !v.watch {
			return fmt.Errorf("%w: %s/%s", page.ErrNoModule, v.namespace, v.module)
		}
	}
	if v.output == "json" {
		e := json.NewEncoder(w)
		if !v.watch {
			e.SetIndent("", "  ")
		}
		return e.Encode(c)
	}
	if v.watch {
		v.heading(w, c.At)
	}
	if v.module != "" && len(c.Modules) > 0 {
		return page.TextModule(w, &c, v.namespace, v.module)
	}
	o := page.NewOverview(&c)
	return page.Text(w, &o)
}

// heading begins another picture: on a terminal, a new screen.
func (v *view) heading(w io.Writer, at time.Time) {
	if f, ok := w.(*os.File); ok {
		if s, err := f.Stat(); err == nil && s.Mode()&os.ModeCharDevice != 0 {
			fmt.Fprint(w, "\x1b[H\x1b[2J")
		}
	}
	fmt.Fprintf(w, "%s\n\n", at.Local().Format(time.DateTime))
}
