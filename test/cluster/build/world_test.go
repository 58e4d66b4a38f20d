// SPDX-License-Identifier: Apache-2.0

package build

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/kmm-node/kmmd/pkg/api/client"
	"github.com/kmm-node/kmmd/pkg/build"
	"github.com/kmm-node/kmmd/test/cluster/lab"
	"github.com/kmm-node/kmmd/test/cluster/play"
	"github.com/kmm-node/kmmd/test/cluster/podrun"
)

// What Jobs call their images here.
const (
	builderImage = "buildah"
	ourImage     = "kmmd:latest"
)

// retry is how long after its first failure an image is tried again.
const retry = 12 * time.Second

// world is a namespace with secrets and keys, and a node that runs its Jobs.
type world struct {
	t         *testing.T
	kube      kubernetes.Interface
	api       *client.Client
	player    *play.Player
	namespace string // and the node's name, its label "world", the name of images
	cert      *x509.Certificate
}

// begin makes a world beside those of other tests, that go on meanwhile.
func begin(t *testing.T, name string) *world {
	t.Helper()
	t.Parallel()
	together.join(t)
	return newWorld(t, name)
}

// together are the tests that go on beside each other. Their kmm-watcher runs as long as
// one of them does.
var together company

type company struct {
	mu      sync.Mutex // guards what follows
	tests   int
	watcher *lab.Program
}

func (c *company) join(t *testing.T) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tests == 0 {
		c.watcher = startWatcher(t, "--build-deadline=5m")
	}
	c.tests++
	t.Cleanup(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.tests--; c.tests == 0 {
			c.watcher.Kill()
		}
	})
}

// startWatcher starts the one kmm-watcher there is. It is killed with the cluster,
// or before. A successor need not wait, since it has the same name.
func startWatcher(t *testing.T, flags ...string) *lab.Program {
	t.Helper()
	p, err := cluster.StartWatcher(context.WithoutCancel(t.Context()), "build",
		append([]string{"--builder=" + build.Buildah, "--builder-image=" + builderImage, "--build-retry=" + retry.String()}, flags...)...)
	require.NoError(t, err)
	return p
}

func newWorld(t *testing.T, name string) *world {
	t.Helper()
	// What a test has left, images above all, is nothing to the next run of it.
	namespace := fmt.Sprintf("%s-%d", name, worlds.Add(1))
	w := &world{t: t, namespace: namespace}
	var err error
	w.kube, err = kubernetes.NewForConfig(cluster.Config())
	require.NoError(t, err)
	w.api, err = client.New(cluster.Config())
	require.NoError(t, err)
	w.player = play.Start(t, cluster.Config())
	w.player.Leave(podrun.Label)
	require.NoError(t, w.player.AddNodes(t.Context(), play.Node{Name: namespace, Kernel: release, Labels: map[string]string{"world": namespace}}))
	builder := podrun.Buildah()
	builder.Binds["/hunt"] = hunter
	podrun.Start(t, cluster.Config(), podrun.Options{
		Nodes: []string{namespace},
		Images: map[string]podrun.Image{
			builderImage: builder,
			ourImage:     podrun.Program("/kmmd", absolute(t, filepath.Join(repository, ".lab", "bin", "kmmd"))),
		},
	})
	cluster.Kubectl(t, "create", "namespace", namespace)
	w.secret("push", corev1.SecretTypeDockerConfigJson, corev1.DockerConfigJsonKey, login(pushPassword, registry.host, "10.0.2.2:"+registry.port()))
	w.secret("token", corev1.SecretTypeOpaque, "value", tokenMarker)
	w.key("trusted")
	w.cert = w.certificate("trusted")
	t.Cleanup(w.end)
	return w
}

// worlds there have been.
var worlds atomic.Int64

// tokenMarker is what a Dockerfile may see.
const tokenMarker = "marker-token-3b0f"

// end removes what would go on to be made.
func (w *world) end() {
	if w.t.Failed() {
		w.show()
	}
	cluster.Kubectl(w.t, "delete", "module", "--all", "-n", w.namespace, "--wait=false")
}

// show shows what the cluster knows, for a test that failed.
func (w *world) show() {
	for _, what := range [][]string{
		{"get", "modules", "-o", "yaml"}, {"get", "jobs"}, {"describe", "pods"}, {"get", "events"},
		{"logs", "-l", build.HashLabel, "--all-containers", "--prefix", "--ignore-errors", "--tail=50"},
	} {
		out, err := cluster.Run(context.WithoutCancel(w.t.Context()), "", append(what, "-n", w.namespace)...)
		w.t.Log(out, err)
	}
}

func absolute(t *testing.T, path string) string {
	t.Helper()
	path, err := filepath.Abs(path)
	require.NoError(t, err)
	require.FileExists(t, path, "run make build")
	return path
}

// secret makes or changes a Secret.
func (w *world) secret(name string, kind corev1.SecretType, data ...string) {
	w.t.Helper()
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, Type: kind, StringData: map[string]string{}}
	for i := 0; i < len(data); i += 2 {
		s.StringData[data[i]] = data[i+1]
	}
	secrets := w.kube.CoreV1().Secrets(w.namespace)
	_, err := secrets.Create(w.t.Context(), s, metav1.CreateOptions{})
	if err != nil {
		_, err = secrets.Update(w.t.Context(), s, metav1.UpdateOptions{})
	}
	require.NoError(w.t, err)
}

// key makes or changes the Secrets key and cert: a pair of the lab.
func (w *world) key(pair string) {
	w.t.Helper()
	w.secret("key", corev1.SecretTypeOpaque, "key", keyFile(w.t, pair+".key"))
	w.secret("cert", corev1.SecretTypeOpaque, "cert", keyFile(w.t, pair+".crt"))
}

func keyFile(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(repository, ".lab", "boot", "keys", name))
	require.NoError(t, err, "run test/vm/setup")
	return string(data)
}

func (w *world) certificate(pair string) *x509.Certificate {
	w.t.Helper()
	block, _ := pem.Decode([]byte(keyFile(w.t, pair+".crt")))
	require.NotNil(w.t, block)
	cert, err := x509.ParseCertificate(block.Bytes)
	require.NoError(w.t, err)
	return cert
}

// dockerfile makes or changes the ConfigMap of a Dockerfile.
func (w *world) dockerfile(name, text string) {
	w.t.Helper()
	file := filepath.Join(w.t.TempDir(), "dockerfile")
	require.NoError(w.t, os.WriteFile(file, []byte(text), 0o600))
	manifest := cluster.Kubectl(w.t, "create", "configmap", name, "-n", w.namespace, "--from-file=dockerfile="+file, "--dry-run=client", "-o=yaml")
	cluster.KubectlInput(w.t, manifest, "apply", "-f", "-")
}

// image is the name of what a Module of this world makes.
func (w *world) image(tag string) string { return registry.host + "/" + w.namespace + ":" + tag }

// document is a Module as somebody writes it. What is empty is not in it.
type document struct {
	name       string // "m"
	tag        string // of the image
	selector   string // of nodes; "" is those of the world
	module     string // its moduleName; "" is kmm_sleep
	replaces   string // in-tree module
	dockerfile string
	args       []string // of the build, "{name: N, value: V}"
	sign       string   // what of the image
	unsigned   string   // image, where nothing is built
	account    string   // ServiceAccount
}

// apply is kubectl apply.
func (w *world) apply(d document) {
	w.t.Helper()
	or := func(text, other string) string {
		if text == "" {
			return other
		}
		return text
	}
	container := []string{"modprobe: {moduleName: " + or(d.module, "kmm_sleep") + "}"}
	if d.replaces != "" {
		container = append(container, "inTreeModulesToRemove: ["+d.replaces+"]")
	}
	if d.dockerfile != "" {
		container = append(container, fmt.Sprintf(`build: {dockerfileConfigMap: {name: %s}, selector: {world: %s}, secrets: [{name: token}],
        baseImageRegistryTLS: {insecure: true}, buildArgs: [%s]}`, d.dockerfile, w.namespace, strings.Join(d.args, ", ")))
	}
	if d.sign != "" {
		container = append(container, "sign: {keySecret: {name: key}, certSecret: {name: cert}, filesToSign: ['"+d.sign+"']}")
	}
	if d.unsigned != "" {
		last := &container[len(container)-1]
		*last = strings.TrimSuffix(*last, "}") + ", unsignedImage: '" + d.unsigned + "', unsignedImageRegistryTLS: {insecure: true}}"
	}
	account := ""
	if d.account != "" {
		account = "serviceAccountName: " + d.account
	}
	cluster.KubectlInput(w.t, fmt.Sprintf(`apiVersion: kmm.sigs.x-k8s.io/v1beta1
kind: Module
metadata: {name: %s, namespace: %s}
spec:
  selector: {%s}
  imageRepoSecret: {name: push}
  moduleLoader:
    %s
    container:
      registryTLS: {insecure: true}
      kernelMappings: [{regexp: '^6\.', containerImage: '%s'}]
      %s
`, or(d.name, "m"), w.namespace, or(d.selector, "world: "+w.namespace), account, w.image(d.tag), strings.Join(container, "\n      ")), "apply", "-f", "-")
}
