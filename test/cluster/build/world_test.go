// SPDX-License-Identifier: Apache-2.0

package build

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
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
	ourImage     = "kmmd"
)

// options are how the Jobs of these tests are made.
func options() build.Options {
	return build.Options{Builder: build.Buildah, BuilderImage: builderImage, OurImage: ourImage, Deadline: 3 * time.Minute}
}

// world is a namespace with secrets and keys, and a node that runs its Jobs.
type world struct {
	t         *testing.T
	kube      kubernetes.Interface
	api       *client.Client
	player    *play.Player
	namespace string // and the node's name, and its label "world"
	cert      *x509.Certificate
}

func newWorld(t *testing.T, namespace string) *world {
	t.Helper()
	w := &world{t: t, namespace: namespace}
	var err error
	w.kube, err = kubernetes.NewForConfig(cluster.Config())
	require.NoError(t, err)
	w.api, err = client.New(cluster.Config())
	require.NoError(t, err)
	w.player = play.Start(t, cluster.Config())
	w.player.Leave(build.HashLabel)
	require.NoError(t, w.player.AddNodes(t.Context(), play.Node{Name: namespace, Kernel: release, Labels: map[string]string{"world": namespace}}))
	podrun.Start(t, cluster.Config(), podrun.Options{
		Nodes: []string{namespace},
		Images: map[string]podrun.Image{
			builderImage: podrun.Buildah(),
			ourImage:     podrun.Program("/kmmd", absolute(t, filepath.Join(repository, ".lab", "bin", "kmmd"))),
		},
	})
	cluster.Kubectl(t, "create", "namespace", namespace)
	w.secret("push", corev1.SecretTypeDockerConfigJson, corev1.DockerConfigJsonKey, login(registry.host, pushPassword))
	w.secret("token", corev1.SecretTypeOpaque, "value", "a build's secret")
	w.keys()
	return w
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

// keys makes the Secrets key and cert of a new pair.
func (w *world) keys() {
	w.t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(w.t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "modules of " + w.namespace},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(10, 0, 0), KeyUsage: x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(w.t, err)
	w.cert, err = x509.ParseCertificate(der)
	require.NoError(w.t, err)
	encoded, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(w.t, err)
	w.secret("key", corev1.SecretTypeOpaque, "key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: encoded})))
	w.secret("cert", corev1.SecretTypeOpaque, "cert", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
}

// dockerfile makes the ConfigMap of a Dockerfile.
func (w *world) dockerfile(name, text string) {
	w.t.Helper()
	file := filepath.Join(w.t.TempDir(), "dockerfile")
	require.NoError(w.t, os.WriteFile(file, []byte(text), 0o600))
	manifest := cluster.Kubectl(w.t, "create", "configmap", name, "-n", w.namespace, "--from-file=dockerfile="+file, "--dry-run=client", "-o=yaml")
	cluster.KubectlInput(w.t, manifest, "apply", "-f", "-")
}

// image is the name of what a Module of this world makes.
func (w *world) image(tag string) string { return registry.host + "/" + w.namespace + ":" + tag }

// apply makes a Module whose image is built from a Dockerfile and, with sign,
// signed.
func (w *world) apply(name, dockerfile string, sign bool) {
	w.t.Helper()
	signing := ""
	if sign {
		signing = "sign: {keySecret: {name: key}, certSecret: {name: cert}, filesToSign: ['/opt/lib/modules/${KERNEL_FULL_VERSION}/extra/*.ko']}"
	}
	cluster.KubectlInput(w.t, fmt.Sprintf(`apiVersion: kmm.sigs.x-k8s.io/v1beta1
kind: Module
metadata: {name: %s, namespace: %s}
spec:
  selector: {world: %s}
  imageRepoSecret: {name: push}
  moduleLoader:
    container:
      modprobe: {moduleName: kmm_built}
      registryTLS: {insecure: true}
      kernelMappings: [{regexp: '^6\.', containerImage: '%s'}]
      build:
        dockerfileConfigMap: {name: %s}
        buildArgs: [{name: BASE, value: '%s'}, {name: FLAVOUR, value: vanilla}]
        secrets: [{name: token}]
        baseImageRegistryTLS: {insecure: true}
      %s
`, name, w.namespace, w.namespace, w.image(name), dockerfile, base, signing), "apply", "-f", "-")
}

// pulled is an image of the registry.
func (w *world) pulled(ref string) v1.Image {
	w.t.Helper()
	tag, err := name.ParseReference(ref, name.Insecure)
	require.NoError(w.t, err)
	img, err := remote.Image(tag, remote.WithContext(w.t.Context()), remote.WithAuth(&authn.Basic{Username: "user", Password: pushPassword}))
	require.NoError(w.t, err)
	return img
}

// wait is for what a build may take.
func (w *world) wait(what string, check func() error) {
	w.t.Helper()
	lab.WaitFor(w.t, 2*time.Minute, what, check)
}

// log is what a container of a Job's pod has written.
func (w *world) log(job, container string) string {
	w.t.Helper()
	return cluster.Kubectl(w.t, "logs", "-n", w.namespace, "-l", "batch.kubernetes.io/job-name="+job, "-c", container, "--tail=-1")
}
