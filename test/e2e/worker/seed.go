// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"

	"github.com/kmm-node/kmmd/test/cluster/lab"
)

// seed writes what makes this node this one, as a tar file that its init unpacks
// when it boots.
func (w *Worker) seed() error {
	kubelet, err := w.access("system:node:"+w.options.Name, "system:nodes")
	if err != nil {
		return err
	}
	proxy, err := w.access("system:kube-proxy")
	if err != nil {
		return err
	}
	o := w.options
	cert, key, err := w.cluster.KubeletServer(o.Name, o.Address)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	archive := tar.NewWriter(&out)
	for _, f := range []struct{ name, content string }{
		{"etc/hostname", o.Name + "\n"},
		{"etc/hosts", "127.0.0.1 localhost\n" + o.Address + " " + o.Name + "\n"},
		{"etc/kubernetes/node", "NODE_IP=" + o.Address + "\n"},
		{"etc/kubernetes/ca.crt", string(w.cluster.CA())},
		{"etc/kubernetes/server.crt", string(cert)},
		{"etc/kubernetes/server.key", string(key)},
		{"etc/kubernetes/kubelet.kubeconfig", kubelet},
		{"etc/kubernetes/proxy.kubeconfig", proxy},
		{"etc/systemd/network/eth0.network", fmt.Sprintf(`[Match]
Name=eth0
[Network]
Address=%s/24
Gateway=10.0.2.2
`, o.Address)},
		{"etc/containerd/certs.d/registry.example/hosts.toml", fmt.Sprintf(`server = "http://10.0.2.2:%[1]s"
[host."http://10.0.2.2:%[1]s"]
capabilities = ["pull", "resolve"]
`, o.Registry)},
		{"etc/cni/net.d/10-lab.conflist", fmt.Sprintf(`{"cniVersion": "1.0.0", "name": "lab", "plugins": [{
  "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true,
  "ipam": {"type": "host-local", "ranges": [[{"subnet": "%s"}]], "routes": [{"dst": "0.0.0.0/0"}]}
}]}
`, o.Pods)},
	} {
		if err := archive.WriteHeader(&tar.Header{Name: f.name, Mode: 0o644, Size: int64(len(f.content))}); err != nil {
			return fmt.Errorf("write seed: %w", err)
		}
		if _, err := archive.Write([]byte(f.content)); err != nil {
			return fmt.Errorf("write seed: %w", err)
		}
	}
	if err := archive.Close(); err != nil {
		return fmt.Errorf("write seed: %w", err)
	}
	// A whole number of sectors: a disk has no other size.
	data := append(out.Bytes(), make([]byte, (512-out.Len()%512)%512)...)
	if err := os.WriteFile(w.path("seed"), data, 0o600); err != nil {
		return fmt.Errorf("write seed: %w", err)
	}
	return nil
}

// access is a kubeconfig for a program of the node.
func (w *Worker) access(user string, groups ...string) (string, error) {
	config, err := w.cluster.User(user, groups...)
	if err != nil {
		return "", err
	}
	data, err := lab.Kubeconfig(config, fmt.Sprintf("https://10.0.2.2:%d", w.cluster.Port()))
	return string(data), err
}
