// SPDX-License-Identifier: Apache-2.0

package podrun

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

const loopback = "127.0.0.1"

// serve serves the logs of containers, to whom the API server sends kubectl logs,
// until ctx ends.
func (r *Runner) serve(ctx context.Context) (port int, err error) {
	certificate, err := selfSigned()
	if err != nil {
		return 0, err
	}
	listener, err := tls.Listen("tcp", loopback+":0", &tls.Config{Certificates: []tls.Certificate{certificate}})
	if err != nil {
		return 0, fmt.Errorf("serve logs: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", r.serveLog)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	r.running.Go(func() { server.Serve(listener) }) //nolint:errcheck // it says that it was closed
	context.AfterFunc(ctx, func() { server.Close() })
	return listener.Addr().(*net.TCPAddr).Port, nil
}

// serveLog answers as the kubelet's server does, for what it is asked here: the
// whole, or the last lines.
func (r *Runner) serveLog(w http.ResponseWriter, req *http.Request) {
	query := req.URL.Query()
	if query.Get("follow") == "true" || query.Get("previous") == "true" {
		http.Error(w, "the pod runner of the tests does not know how", http.StatusNotImplemented)
		return
	}
	log, err := r.log(req.PathValue("namespace"), req.PathValue("pod"), req.PathValue("container"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	if lines, err := strconv.Atoi(query.Get("tailLines")); err == nil {
		log = []byte(tail(log, len(log), lines))
	}
	if size, err := strconv.Atoi(query.Get("limitBytes")); err == nil {
		log = log[:min(len(log), size)]
	}
	w.Write(log) //nolint:errcheck // whoever asked has gone
}

// log is what a container has written so far.
func (r *Runner) log(namespace, name, container string) ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.pods {
		if p.object.Namespace == namespace && p.object.Name == name {
			return os.ReadFile(p.path(container, "log"))
		}
	}
	return nil, errors.New("no such pod here")
}

// announce writes where the logs of a node's pods are to its object.
func (r *Runner) announce(ctx context.Context, node string, port int) error {
	patch, err := json.Marshal(map[string]any{"status": map[string]any{
		"daemonEndpoints": map[string]any{"kubeletEndpoint": map[string]any{"Port": port}},
	}})
	if err != nil {
		return err
	}
	_, err = r.client.CoreV1().Nodes().Patch(ctx, node, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	return err
}

// selfSigned is a certificate as a kubelet makes one; the API server takes any.
func selfSigned() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make certificate: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(0, 0, 1),
		IPAddresses: []net.IP{net.ParseIP(loopback)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

// labelled are the pods with the label.
func labelled(client kubernetes.Interface) cache.ListerWatcher {
	return cache.NewFilteredListWatchFromClient(client.CoreV1().RESTClient(), "pods", metav1.NamespaceAll,
		func(o *metav1.ListOptions) { o.LabelSelector = Label })
}
