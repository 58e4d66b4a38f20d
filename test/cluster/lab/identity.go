// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"fmt"
	"os"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// User is access by a client certificate, without limits for requests.
func (c *Cluster) User(name string, groups ...string) (*rest.Config, error) {
	return c.user(name, groups...)
}

// Kubelet is the access that the kubelet of a node has.
func (c *Cluster) Kubelet(node string) (*rest.Config, error) {
	return c.user("system:node:"+node, "system:nodes")
}

func (c *Cluster) user(name string, groups ...string) (*rest.Config, error) {
	cert, key, err := c.authority.client(name, groups)
	if err != nil {
		return nil, err
	}
	config := c.anonymous()
	config.CertData, config.KeyData = cert, key
	return config, nil
}

// ServiceAccount is access by a token such as a pod gets. With a node, which must
// exist, the token is bound to that Node object: the server knows the node's name
// from it, and refuses it when the node is gone. The ServiceAccount must exist.
func (c *Cluster) ServiceAccount(ctx context.Context, namespace, name, node string) (*rest.Config, error) {
	token, err := c.Token(ctx, namespace, name, node)
	if err != nil {
		return nil, err
	}
	config := c.anonymous()
	config.BearerToken = token
	return config, nil
}

// Token is the token alone, good for an hour; see ServiceAccount.
func (c *Cluster) Token(ctx context.Context, namespace, name, node string) (string, error) {
	client, err := kubernetes.NewForConfig(c.admin)
	if err != nil {
		return "", fmt.Errorf("make token: %w", err)
	}
	request := &authenticationv1.TokenRequest{}
	if node != "" {
		n, err := client.CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{})
		if err != nil {
			return "", fmt.Errorf("make token: %w", err)
		}
		request.Spec.BoundObjectRef = &authenticationv1.BoundObjectReference{
			APIVersion: "v1", Kind: "Node", Name: node, UID: types.UID(n.UID),
		}
	}
	answer, err := client.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, name, request, metav1.CreateOptions{})
	if err != nil {
		return "", fmt.Errorf("make token: %w", err)
	}
	return answer.Status.Token, nil
}

func (c *Cluster) anonymous() *rest.Config {
	return &rest.Config{
		Host:            fmt.Sprintf("https://127.0.0.1:%d", c.Port()),
		TLSClientConfig: rest.TLSClientConfig{CAData: c.CA()},
		QPS:             -1,
	}
}

// Kubeconfig is the content of a file with the access of config, which came from
// this package, to a server such as https://10.0.2.2:PORT; empty is config's own.
func Kubeconfig(config *rest.Config, server string) ([]byte, error) {
	if server == "" {
		server = config.Host
	}
	file := clientcmdapi.NewConfig()
	file.Clusters["lab"] = &clientcmdapi.Cluster{Server: server, CertificateAuthorityData: config.CAData}
	file.AuthInfos["lab"] = &clientcmdapi.AuthInfo{
		ClientCertificateData: config.CertData, ClientKeyData: config.KeyData, Token: config.BearerToken,
	}
	file.Contexts["lab"] = &clientcmdapi.Context{Cluster: "lab", AuthInfo: "lab"}
	file.CurrentContext = "lab"
	data, err := clientcmd.Write(*file)
	if err != nil {
		return nil, fmt.Errorf("write kubeconfig: %w", err)
	}
	return data, nil
}

func (c *Cluster) writeKubeconfig(name string, config *rest.Config) error {
	data, err := Kubeconfig(config, "")
	if err != nil {
		return err
	}
	if err := os.WriteFile(c.path(name+".kubeconfig"), data, 0o600); err != nil {
		return fmt.Errorf("write kubeconfig: %w", err)
	}
	return nil
}
