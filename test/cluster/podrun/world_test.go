// SPDX-License-Identifier: Apache-2.0

package podrun_test

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes"

	"github.com/kmm-node/kmmd/test/cluster/lab"
	"github.com/kmm-node/kmmd/test/cluster/play"
	"github.com/kmm-node/kmmd/test/cluster/podrun"
)

// cluster is shared by the tests of this package; see lab.Main.
var cluster *lab.Cluster

func TestMain(m *testing.M) {
	os.Exit(lab.Main(m, lab.Options{ControllerManager: true}, &cluster))
}

// world is a namespace, and a node that runs its pods.
type world struct {
	t         *testing.T
	kube      kubernetes.Interface
	namespace string
}

// busybox is an image with a shell, as /bin/sh, and some tools.
func busybox() podrun.Image {
	image := podrun.Program("/bin/busybox", "/bin/busybox")
	image.Links = map[string]string{}
	for _, tool := range []string{"sh", "cat", "grep", "id", "ls", "mount", "readlink", "seq", "sleep", "stat", "tail", "touch", "umount", "unshare", "wc"} {
		image.Links["/bin/"+tool] = "busybox"
	}
	return image
}

func newWorld(t *testing.T) *world {
	t.Helper()
	name := strings.ToLower(t.Name())
	kube, err := kubernetes.NewForConfig(cluster.Config())
	require.NoError(t, err)
	player := play.Start(t, cluster.Config())
	player.Leave(podrun.Label)
	require.NoError(t, player.AddNodes(t.Context(), play.Node{Name: name}))
	podrun.Start(t, cluster.Config(), podrun.Options{
		Nodes: []string{name}, Images: map[string]podrun.Image{"busybox": busybox()}, Hosts: map[string]string{"registry.test": "127.0.0.1"},
	})
	cluster.Kubectl(t, "create", "namespace", name)
	lab.Wait(t, "the namespace has the ServiceAccount of pods", func() error { // pods are refused before
		_, err := kube.CoreV1().ServiceAccounts(name).Get(t.Context(), "default", metav1.GetOptions{})
		return err
	})
	return &world{t: t, kube: kube, namespace: name}
}

// pod makes one out of what follows "spec:", with a container for each script: all
// but the last are init containers. It returns the name.
func (w *world) pod(spec string, scripts ...string) string {
	w.t.Helper()
	pod := &corev1.Pod{}
	require.NoError(w.t, yaml.UnmarshalStrict([]byte(spec), &pod.Spec))
	pod.GenerateName, pod.Labels = "pod-", map[string]string{podrun.Label: "x"}
	pod.Spec.NodeName, pod.Spec.RestartPolicy = w.namespace, corev1.RestartPolicyNever
	no := false
	pod.Spec.AutomountServiceAccountToken = &no
	for i, script := range scripts {
		c := corev1.Container{Name: fmt.Sprintf("c%d", i)}
		if len(pod.Spec.Containers) > 0 {
			c = pod.Spec.Containers[0] // the pattern
			c.Name = fmt.Sprintf("c%d", i)
		}
		c.Image, c.Command = "busybox", []string{"sh", "-c", script}
		c.TerminationMessagePolicy = corev1.TerminationMessageFallbackToLogsOnError
		if i < len(scripts)-1 {
			pod.Spec.InitContainers = append(pod.Spec.InitContainers, c)
		} else {
			pod.Spec.Containers = []corev1.Container{c}
		}
	}
	made, err := w.kube.CoreV1().Pods(w.namespace).Create(w.t.Context(), pod, metav1.CreateOptions{})
	require.NoError(w.t, err)
	return made.Name
}

// wait waits until a pod is in a phase.
func (w *world) wait(name string, phase corev1.PodPhase) *corev1.Pod {
	w.t.Helper()
	return w.waitFor(name, func(p *corev1.Pod) error {
		if p.Status.Phase != phase {
			return errors.New("it is in another phase")
		}
		return nil
	})
}

func (w *world) waitFor(name string, check func(*corev1.Pod) error) (pod *corev1.Pod) {
	w.t.Helper()
	lab.Wait(w.t, "the pod changes", func() error {
		var err error
		if pod, err = w.kube.CoreV1().Pods(w.namespace).Get(w.t.Context(), name, metav1.GetOptions{}); err != nil {
			return err
		}
		if err := check(pod); err != nil {
			return fmt.Errorf("%w: %+v", err, pod.Status)
		}
		return nil
	})
	return pod
}

func (w *world) log(pod, container string, options ...string) string {
	w.t.Helper()
	return cluster.Kubectl(w.t, append([]string{"logs", "-n", w.namespace, pod, "-c", container}, options...)...)
}
