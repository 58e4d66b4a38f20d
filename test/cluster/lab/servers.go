// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"fmt"
	"net/http"
	"syscall"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// hostInVM is what the host's loopback interface is called in a VM of the lab.
const hostInVM = "10.0.2.2"

func (c *Cluster) startEtcd(ctx context.Context) (err error) {
	client := fmt.Sprintf("http://127.0.0.1:%d", c.etcdPort.number)
	peer := fmt.Sprintf("http://127.0.0.1:%d", c.peerPort.number)
	c.etcd, err = c.startProcess("etcd",
		"--name=lab", "--data-dir="+c.path("etcd"), "--log-level=warn",
		"--listen-client-urls="+client, "--advertise-client-urls="+client,
		"--listen-peer-urls="+peer, "--initial-advertise-peer-urls="+peer, "--initial-cluster=lab="+peer,
		"--socket-reuse-port", "--unsafe-no-fsync", "--quota-backend-bytes=4294967296",
		// Old revisions go every minute, or thousands of nodes fill the disk.
		"--auto-compaction-mode=periodic", "--auto-compaction-retention=1m",
	)
	if err != nil {
		return err
	}
	return c.etcd.waitFor(ctx, func() error { return httpOK(ctx, http.DefaultClient, client+"/health") })
}

// StartAPIServer starts the API server again after StopAPIServer: same port, same
// data. It returns when it is ready.
func (c *Cluster) StartAPIServer(ctx context.Context) (err error) {
	args := []string{
		fmt.Sprintf("--etcd-servers=http://127.0.0.1:%d", c.etcdPort.number),
		"--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", c.Port()), "--permit-port-sharing",
		"--endpoint-reconciler-type=none", "--service-cluster-ip-range=10.0.0.0/24", "--allow-privileged",
		"--tls-cert-file=" + c.path("pki", "server.crt"), "--tls-private-key-file=" + c.path("pki", "server.key"),
		"--client-ca-file=" + c.path("pki", "ca.crt"),
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file=" + c.path("pki", "tokens.key"), "--service-account-signing-key-file=" + c.path("pki", "tokens.key"),
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
		"--audit-policy-file=" + c.path("audit-policy.json"), "--audit-log-path=" + c.path("log", auditLog),
		"--audit-log-maxsize=0",                        // in one file, however long
		"--kubelet-preferred-address-types=InternalIP", // names of nodes are names only
	}
	if c.options.Kubelets {
		args = append(args, "--advertise-address="+hostInVM, "--endpoint-reconciler-type=lease",
			"--kubelet-certificate-authority="+c.path("pki", "ca.crt"),
			"--kubelet-client-certificate="+c.path("pki", "kubelet-client.crt"), "--kubelet-client-key="+c.path("pki", "kubelet-client.key"))
	}
	if !c.options.ControllerManager {
		// It gives new nodes a taint that nobody would take away.
		args = append(args, "--disable-admission-plugins=TaintNodesByCondition")
	}
	c.apiServer, err = c.startProcess("kube-apiserver", append(args, c.options.APIServer...)...)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(c.admin)
	if err != nil {
		return fmt.Errorf("ask API server: %w", err)
	}
	return c.apiServer.waitFor(ctx, func() error {
		return client.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
	})
}

// StopAPIServer ends the API server and keeps its data. Until StartAPIServer
// connections are refused.
func (c *Cluster) StopAPIServer() { c.apiServer.end(syscall.SIGTERM, 2*time.Second) }

// KillAPIServer ends the API server as a crash does.
func (c *Cluster) KillAPIServer() { c.apiServer.kill() }

// StartControllerManager starts the controller manager and returns when it works.
func (c *Cluster) StartControllerManager(ctx context.Context) error {
	if err := c.serverKubeconfig("kube-controller-manager"); err != nil {
		return err
	}
	args := []string{
		"--kubeconfig=" + c.path("kube-controller-manager.kubeconfig"), "--leader-elect=false", "--secure-port=0",
		"--use-service-account-credentials",
		"--service-account-private-key-file=" + c.path("pki", "tokens.key"), "--root-ca-file=" + c.path("pki", "ca.crt"),
		"--kube-api-qps=1000", "--kube-api-burst=2000",
	}
	if !c.options.Kubelets {
		// Nobody sends heartbeats for nodes that are played.
		args = append(args, "--node-monitor-grace-period=24h", "--node-monitor-period=1s")
	}
	var err error
	c.controllerManager, err = c.startProcess("kube-controller-manager", args...)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(c.admin)
	if err != nil {
		return fmt.Errorf("ask API server: %w", err)
	}
	return c.controllerManager.waitFor(ctx, func() error {
		_, err := client.CoreV1().ServiceAccounts("default").Get(ctx, "default", metav1.GetOptions{})
		return err
	})
}

func (c *Cluster) startScheduler() error {
	if err := c.serverKubeconfig("kube-scheduler"); err != nil {
		return err
	}
	var err error
	c.scheduler, err = c.startProcess("kube-scheduler",
		"--kubeconfig="+c.path("kube-scheduler.kubeconfig"), "--leader-elect=false", "--secure-port=0",
		"--kube-api-qps=1000", "--kube-api-burst=2000",
	)
	return err
}

func (c *Cluster) serverKubeconfig(name string) error {
	config, err := c.user("system:" + name)
	if err != nil {
		return err
	}
	return c.writeKubeconfig(name, config)
}

// waitFor asks until the answer is yes. A process that has ended does not become
// ready any more.
func (p *process) waitFor(ctx context.Context, ready func() error) error {
	tick := time.NewTicker(25 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ready()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-p.done:
			return fmt.Errorf("wait for %s: it has ended: %s", p.name, p.cmd.ProcessState)
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", p.name, err)
		}
	}
}

func httpOK(ctx context.Context, client *http.Client, url string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, response.Status)
	}
	return nil
}
