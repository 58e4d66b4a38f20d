// SPDX-License-Identifier: Apache-2.0

// Package lab starts a real Kubernetes control plane on the loopback interface
// for tests: etcd, kube-apiserver and, where asked for, kube-controller-manager
// and kube-scheduler, with kubectl to speak to it. There is no kubelet: see
// package play. The binaries come from test/cluster/setup.
package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"k8s.io/client-go/rest"
)

// Options say what is started. The zero value is etcd and kube-apiserver.
type Options struct {
	// Bin is the directory with the programs; empty is $KMMD_CLUSTER.
	Bin string
	// ControllerManager makes DaemonSets have pods, owners have an effect, and
	// namespaces have a ServiceAccount. A node counts as alive for a day after its
	// last word.
	ControllerManager bool
	// Scheduler binds pods to nodes.
	Scheduler bool
	// Kubelets makes room for real ones, in VMs of the lab: the API server asks them
	// for logs with a certificate and wants to see theirs (KubeletServer), the
	// Service kubernetes leads to it, and a node that is silent counts as lost.
	Kubelets bool
	// Install has files and directories of manifests, relative to the root of the
	// repository, that are applied as Cluster.Install does.
	Install []string
	// AuditReads makes the audit log have reads, too.
	AuditReads bool
	// APIServer has more arguments for kube-apiserver; the last one of a name wins.
	APIServer []string
	// Logs is where the logs are copied to in the end; empty is nowhere.
	Logs string
}

// Cluster is a control plane that runs. It may be used by several goroutines;
// those that start and stop servers may not run side by side.
type Cluster struct {
	options   Options
	dir       string
	repo      string
	authority *authority
	admin     *rest.Config

	apiPort, etcdPort, peerPort *port

	marks atomic.Int64 // how often the audit log was marked

	etcd, apiServer, controllerManager, scheduler *process
}

// How long a server may take until it serves, on a machine that does other
// things, too.
const startTimeout = 5 * time.Minute

// Start starts a control plane and returns when it serves. ctx is for the start
// only. The caller ends it by Stop; if the caller is killed, it ends as well.
func Start(ctx context.Context, o Options) (*Cluster, error) {
	if o.Bin == "" {
		o.Bin = os.Getenv("KMMD_CLUSTER")
	}
	if o.Bin == "" {
		return nil, errors.New("start cluster: KMMD_CLUSTER does not say where the programs are (.lab/cluster/bin, made by test/cluster/setup)")
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	c := &Cluster{options: o}
	if err := c.start(ctx); err != nil {
		err = fmt.Errorf("start cluster: %w\n%s", err, c.LogTails())
		c.Stop()
		return nil, err
	}
	return c, nil
}

func (c *Cluster) start(ctx context.Context) error {
	if err := c.prepare(); err != nil {
		return err
	}
	if err := c.startEtcd(ctx); err != nil {
		return err
	}
	if err := c.StartAPIServer(ctx); err != nil {
		return err
	}
	// Before the controller manager: its garbage collector learns of new kinds only
	// every half a minute.
	if err := c.Install(ctx, c.options.Install...); err != nil {
		return err
	}
	if c.options.ControllerManager {
		if err := c.StartControllerManager(ctx); err != nil {
			return err
		}
	}
	if c.options.Scheduler {
		return c.startScheduler()
	}
	return nil
}

// prepare makes everything that the servers find when they start.
func (c *Cluster) prepare() (err error) {
	if c.repo, err = repository(); err != nil {
		return err
	}
	if c.dir, err = os.MkdirTemp("", "kmmd-cluster."); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	for _, name := range []string{"log", "home", "pki"} {
		if err := os.Mkdir(c.path(name), 0o700); err != nil {
			return fmt.Errorf("make directory: %w", err)
		}
	}
	for _, p := range []**port{&c.apiPort, &c.etcdPort, &c.peerPort} {
		if *p, err = reservePort(); err != nil {
			return err
		}
	}
	if c.authority, err = newAuthority(); err != nil {
		return err
	}
	if err := c.writePKI(); err != nil {
		return err
	}
	if c.admin, err = c.user("kubernetes-admin", "system:masters"); err != nil {
		return err
	}
	if err := c.writeKubeconfig("admin", c.admin); err != nil {
		return err
	}
	return c.writeAuditPolicy()
}

// Stop kills all servers and removes what they wrote, except the logs.
func (c *Cluster) Stop() {
	for _, p := range []*process{c.scheduler, c.controllerManager, c.apiServer, c.etcd} {
		p.kill()
	}
	for _, p := range []*port{c.apiPort, c.etcdPort, c.peerPort} {
		p.release()
	}
	if c.dir == "" {
		return
	}
	c.saveLogs()
	os.RemoveAll(c.dir)
}

// Config is the administrator's access, without limits for requests. The caller
// may change it.
func (c *Cluster) Config() *rest.Config { return rest.CopyConfig(c.admin) }

// KubeconfigPath is a file for KUBECONFIG with the administrator's access.
func (c *Cluster) KubeconfigPath() string { return c.path("admin.kubeconfig") }

// Port of the API server on 127.0.0.1; in a VM of the lab it is at 10.0.2.2.
func (c *Cluster) Port() int { return c.apiPort.number }

// CA is the certificate, in PEM, that all others are signed by.
func (c *Cluster) CA() []byte { return c.authority.pem() }

// PID of a server that runs: etcd, kube-apiserver, kube-controller-manager or
// kube-scheduler; 0 if it does not.
func (c *Cluster) PID(server string) int {
	for _, p := range []*process{c.etcd, c.apiServer, c.controllerManager, c.scheduler} {
		if p.alive() && p.name == server {
			return p.cmd.Process.Pid
		}
	}
	return 0
}

func (c *Cluster) path(elements ...string) string {
	return filepath.Join(append([]string{c.dir}, elements...)...)
}

// repository is the root of the repository, found from the current directory,
// which go test sets to the package's.
func repository() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find repository: %w", err)
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "test", "cluster", "setup")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("find repository: the current directory is not in it")
		}
	}
}
