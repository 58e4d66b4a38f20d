// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"os"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/kmm-node/kmmd/pkg/memory"
	"github.com/kmm-node/kmmd/pkg/source"
	"github.com/kmm-node/kmmd/pkg/spec"
	"github.com/kmm-node/kmmd/pkg/systemd"
	"github.com/kmm-node/kmmd/pkg/version"
)

// runName is the command that changes the node.
const runName = "run"

func runCommand(o *options) *cobra.Command {
	var once, wait bool
	cmd := &cobra.Command{
		Use:   runName + " [--once [--offline] | --wait] [-f FILE|DIR]",
		Short: "load what the Module documents ask for, and keep it so",
		Long: `run brings the node to what the documents ask for and stays: it reads them
again when they change, heals what others change, and serves /metrics, /livez
and /readyz. With --once it does so one time, prints the status and ends.

The documents are the whole wish: modules that kmmd has loaded for a document
which is not among them any more are unloaded and their firmware is removed; an
in-tree module they replaced does not come back by itself. Look first: kmmd plan.

Started by systemd as a service of Type=notify, it is ready when the first look
at the node is finished, or after start_wait.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if once {
				return runOnce(cmd, o)
			}
			if o.offline {
				return usageError{errors.New("--offline goes with --once: a daemon that asks no registry has image pull policy Never in its documents")}
			}
			if wait {
				if err := takeOver(cmd.Context(), o); err != nil || cmd.Context().Err() != nil {
					return err
				}
			}
			return runDaemon(cmd.Context(), o)
		},
	}
	o.documentsFlag(cmd)
	cmd.Flags().BoolVar(&once, "once", false, "do it one time and end")
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until another kmmd of this node has ended, ready to take over")
	cmd.MarkFlagsMutuallyExclusive("once", "wait")
	cmd.Flags().BoolVar(&o.offline, "offline", false, "with --once: ask no registry, take images out of the store")
	cmd.Flags().BoolVar(&o.cluster, "cluster", false, "take orders from the cluster too, as [cluster] enabled in the configuration does")
	return cmd
}

func runOnce(cmd *cobra.Command, o *options) error {
	n, unlock, err := openLocked(o, nil, true)
	if err != nil {
		return err
	}
	defer unlock()
	desired, err := n.readDesired()
	if err != nil {
		return err
	}
	status, err := n.agent.Reconcile(cmd.Context())
	if err == nil && n.config.Prestage && !o.offline {
		if err = n.agent.Prestage(cmd.Context()); err == nil {
			status, err = n.agent.Reconcile(cmd.Context())
		}
	}
	if err != nil {
		return err
	}
	if err := printStatus(cmd.OutOrStdout(), o, status); err != nil {
		return err
	}
	return verdict(status, desired.Invalid)
}

// verdict turns a status into the exit code: documents that can not be used
// weigh more than modules that are not loaded.
func verdict(status spec.Status, invalid []error) error {
	switch {
	case len(invalid) > 0:
		return usageError{errors.Join(invalid...)}
	case !status.OK():
		return errNotAsWanted
	}
	return nil
}

// readDesired reads the documents and the last order of the cluster, and has the
// agent want what they say.
func (n *node) readDesired() (spec.Node, error) {
	desired, notes, err := n.source.Read()
	if err != nil {
		return desired, usageError{err}
	}
	n.tell(notes)
	desired = wish(desired, n.cluster)
	n.agent.SetDesired(desired)
	return desired, nil
}

func (n *node) tell(notes []string) {
	for _, note := range notes {
		n.log.Warn("document left alone", "note", note)
	}
}

// openLocked is openNode for a kmmd that changes the node.
func openLocked(o *options, registry prometheus.Registerer, retry bool) (*node, func(), error) {
	c, err := readConfig(o.configFile)
	if err != nil {
		return nil, nil, err
	}
	l, err := lock(c.RunDir)
	if err != nil {
		return nil, nil, err
	}
	n, closeNode, err := openNode(o, registry, true, retry)
	if err != nil {
		_ = l.Close()
		return nil, nil, err
	}
	return n, func() {
		closeNode()
		_ = l.Close() // releases the lock
	}, nil
}

func runDaemon(ctx context.Context, o *options) error {
	memory.CollectSeldom()
	var err error
	if o.manager, err = systemd.Open(); err != nil {
		return err
	}
	defer o.manager.Close()
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	n, unlock, err := openLocked(o, registry, false)
	if err != nil {
		return err
	}
	defer unlock()
	n.log.Info("kmmd starts", "version", version.String(), "kernel", n.host.Release(), "documents", n.source.Path)
	joint := n.joint()
	g, ctx := errgroup.WithContext(ctx)
	// Subscribe before the first look, so that nothing that happens after it
	// is missed.
	subscribed := make(chan struct{})
	g.Go(func() error {
		return n.host.WatchModules(ctx, func() { close(subscribed) }, n.agent.Trigger)
	})
	g.Go(func() error {
		select {
		case <-subscribed:
		case <-ctx.Done():
			return nil
		}
		return n.source.Watch(ctx, func(files spec.Node, notes []string) { n.setFiles(joint, files, notes) })
	})
	if n.cluster != nil {
		g.Go(func() error { return n.cluster.Watch(ctx, joint.Cluster) })
	}
	g.Go(func() error { return n.agent.Run(ctx) })
	if n.manager != nil {
		g.Go(func() error { return n.notify(ctx) })
	}
	if n.config.Listen != "" {
		g.Go(func() error { return n.serve(ctx, registry) })
	}
	err = g.Wait()
	n.log.Info("kmmd stops; modules stay as they are")
	return err
}

// notify tells systemd.
func (n *node) notify(ctx context.Context) error {
	return notifier{
		manager: n.manager, wait: n.config.StartWait.Duration, log: n.log,
		ready: n.agent.Ready, live: func() error { return n.agent.Live(stuck) },
	}.run(ctx)
}

// joint has the agent want what files and the cluster ask for. What is known of
// the cluster by now counts from the first look on.
func (n *node) joint() *source.Joint {
	j := source.NewJoint(n.agent.SetDesired)
	if n.cluster == nil {
		j.Cluster(spec.Node{})
	} else if saved, ok := n.cluster.Saved(); ok {
		j.Cluster(saved)
	}
	return j
}

// setFiles passes on what the documents say. A directory that can not be read is
// tried every few seconds: what is wrong is told once.
func (n *node) setFiles(j *source.Joint, files spec.Node, notes []string) {
	n.tell(notes)
	wrong := map[string]bool{}
	for _, err := range files.Invalid {
		if !n.wrong[err.Error()] {
			n.log.Error("document can not be used; nothing is unloaded until it is mended or removed", "err", err)
		}
		wrong[err.Error()] = true
	}
	n.wrong = wrong
	j.Files(files)
}

func isNotExist(err error) bool { return errors.Is(err, os.ErrNotExist) }
