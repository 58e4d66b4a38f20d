// SPDX-License-Identifier: Apache-2.0

package podrun_test

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/yaml"

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

func TestContainersRunInOrder(t *testing.T) {
	w := newWorld(t)
	name := w.pod(`
volumes: [{name: out, emptyDir: {}}]
containers: [{volumeMounts: [{name: out, mountPath: /out}]}]`,
		"echo one >/out/file; echo said", "echo two >>/out/file; cat /etc/hosts; echo well >/dev/termination-log", "cat /out/file; id")
	pod := w.wait(name, corev1.PodSucceeded)
	require.Len(t, pod.Status.InitContainerStatuses, 2)
	require.Len(t, pod.Status.ContainerStatuses, 1)
	assert.Equal(t, "said\n", w.log(name, "c0"))
	assert.Contains(t, w.log(name, "c1"), "127.0.0.1 registry.test\n")
	assert.Equal(t, "one\ntwo\nuid=0 gid=0\n", w.log(name, "c2"))
	end := pod.Status.InitContainerStatuses[1].State.Terminated
	require.NotNil(t, end)
	assert.Equal(t, "well\n", end.Message)
	assert.Equal(t, "Completed", end.Reason)
}

func TestFailureHasLastWords(t *testing.T) {
	w := newWorld(t)
	name := w.pod(`{}`, "seq 200; echo no luck >&2; exit 3", "echo never")
	pod := w.wait(name, corev1.PodFailed)
	end := pod.Status.InitContainerStatuses[0].State.Terminated
	require.NotNil(t, end)
	assert.Equal(t, int32(3), end.ExitCode)
	assert.Equal(t, "Error", end.Reason)
	assert.True(t, strings.HasPrefix(end.Message, "122\n"), end.Message)
	assert.True(t, strings.HasSuffix(end.Message, "200\nno luck\n"), end.Message)
	require.NotNil(t, pod.Status.ContainerStatuses[0].State.Waiting)
	assert.Equal(t, "199\n200\nno luck\n", w.log(name, "c0", "--tail=3"))

	pod = w.wait(w.pod(`{}`, "seq 10000 10900; exit 1"), corev1.PodFailed)
	end = pod.Status.ContainerStatuses[0].State.Terminated
	assert.Equal(t, 80, strings.Count(end.Message, "\n"))
	pod = w.wait(w.pod(`{}`, "echo 'printf %0100d 1; echo' >/s; for i in $(seq 30); do sh /s; done; exit 1"), corev1.PodFailed)
	assert.Len(t, pod.Status.ContainerStatuses[0].State.Terminated.Message, 2048)
}

// TestContainersAreApart: one sees neither what is mounted in another, nor its
// processes, nor anything of the machine.
func TestContainersAreApart(t *testing.T) {
	w := newWorld(t)
	cluster.Kubectl(t, "create", "secret", "generic", "key", "--from-literal=key=marker-of-a-secret", "-n", w.namespace)
	const look = `ls /; ls /run 2>&1; grep -rl marker-of-a-secret /proc/[0-9]*/environ /tmp /run /out 2>/dev/null; ls -d /proc/[0-9]* | wc -l; mount`
	pod := &corev1.Pod{}
	require.NoError(t, yaml.UnmarshalStrict([]byte(`
metadata: {name: apart, labels: {kmm.node.kubernetes.io/image-job: x}}
spec:
  nodeName: `+w.namespace+`
  restartPolicy: Never
  automountServiceAccountToken: false
  volumes:
  - {name: key, secret: {secretName: key}}
  - {name: out, emptyDir: {}}
  containers:
  - {name: has, image: busybox, command: [sh, -c, 'cat /run/key/key; until [ -e /out/end ]; do sleep 0.1; done'],
     env: [{name: KEY, value: marker-of-a-secret}], volumeMounts: [{name: key, mountPath: /run/key}, {name: out, mountPath: /out}]}
  - {name: looks, image: busybox, command: [sh, -c, '`+look+`; touch /out/end'], volumeMounts: [{name: out, mountPath: /out}]}
`), pod))
	_, err := w.kube.CoreV1().Pods(w.namespace).Create(t.Context(), pod, metav1.CreateOptions{})
	require.NoError(t, err)
	w.wait("apart", corev1.PodSucceeded)
	assert.Equal(t, "marker-of-a-secret", w.log("apart", "has"))
	saw := w.log("apart", "looks")
	assert.Contains(t, saw, "bin\ndev\netc\nout\nproc\nsys\n")
	assert.NotContains(t, saw, "environ")
	assert.NotContains(t, saw, "/run/key")
	assert.NotContains(t, saw, "/work", "nothing is mounted but what is told")
}

func TestVolumes(t *testing.T) {
	w := newWorld(t)
	cluster.Kubectl(t, "create", "configmap", "files", "--from-literal=dockerfile=FROM x", "--from-literal=other=1", "-n", w.namespace)
	const spec = `
securityContext: {fsGroup: 65532}
volumes:
- {name: work, configMap: {name: files, items: [{key: dockerfile, path: Dockerfile}]}}
- {name: all, configMap: {name: files}}
- {name: key, secret: {secretName: later, defaultMode: 256}}
- {name: maybe, secret: {secretName: never, optional: true}}
- {name: out, emptyDir: {}}
containers: [{
  securityContext: {runAsUser: 65532, runAsGroup: 65532},
  volumeMounts: [{name: work, mountPath: /workspace}, {name: all, mountPath: /all}, {name: key, mountPath: /run/keys/key},
    {name: maybe, mountPath: /maybe}, {name: out, mountPath: /out}]}]`
	name := w.pod(spec, `ls /workspace /all /maybe; readlink /workspace/Dockerfile; readlink /workspace/..data; cat /workspace/Dockerfile /run/keys/key/key
stat -L -c '%a %u:%g' /run/keys/key/key; touch /out/new && stat -c '%a %u:%g' /out /out/new; touch /workspace/no`)
	w.waitFor(name, func(p *corev1.Pod) error {
		if len(p.Status.ContainerStatuses) == 0 || p.Status.ContainerStatuses[0].State.Waiting == nil {
			return errors.New("it does not wait")
		}
		return nil
	})
	lab.Wait(t, "the event tells what is missing", func() error {
		if events := cluster.Kubectl(t, "get", "events", "-n", w.namespace); !strings.Contains(events, `"later" not found`) {
			return errors.New(events)
		}
		return nil
	})
	cluster.Kubectl(t, "create", "secret", "generic", "later", "--from-literal=key=abc", "-n", w.namespace)
	w.wait(name, corev1.PodFailed)
	assert.Equal(t, `/all:
dockerfile
other

/maybe:

/workspace:
Dockerfile
..data/Dockerfile
..2026_01_02_03_04_05.678901234
FROM xabc440 0:65532
2777 0:65532
644 65532:65532
touch: /workspace/no: Read-only file system
`, w.log(name, "c0"))
}

// TestConfined: what a security context takes away is really gone.
func TestConfined(t *testing.T) {
	w := newWorld(t)
	name := w.pod(`
containers: [{securityContext: {runAsNonRoot: true, runAsUser: 65532, allowPrivilegeEscalation: false, readOnlyRootFilesystem: true,
  capabilities: {drop: [ALL]}, seccompProfile: {type: RuntimeDefault}}}]`,
		"id; grep -E '^(Cap(Prm|Eff|Bnd)|NoNewPrivs|Seccomp):' /proc/self/status; touch /x; unshare -m true; mount -t tmpfs none /etc; echo ok >/dev/termination-log")
	pod := w.wait(name, corev1.PodSucceeded)
	assert.Equal(t, "ok\n", pod.Status.ContainerStatuses[0].State.Terminated.Message)
	assert.Equal(t, `uid=65532 gid=0
CapPrm:	0000000000000000
CapEff:	0000000000000000
CapBnd:	0000000000000000
NoNewPrivs:	1
Seccomp:	2
touch: /x: Read-only file system
unshare: unshare(0x20000): Operation not permitted
mount: permission denied (are you root?)
`, w.log(name, "c0"))

	name = w.pod(`containers: [{securityContext: {capabilities: {add: [SYS_ADMIN]}, seccompProfile: {type: RuntimeDefault}}}]`,
		"touch /x && mount -t tmpfs none /bin && unshare -m /bin/true; umount /bin && unshare -m /bin/busybox true")
	w.wait(name, corev1.PodSucceeded)

	name = w.pod(`containers: [{securityContext: {runAsNonRoot: true}}]`, "true")
	w.waitFor(name, func(p *corev1.Pod) error {
		if s := p.Status.ContainerStatuses; len(s) == 0 || s[0].State.Waiting == nil || s[0].State.Waiting.Reason != "CreateContainerConfigError" {
			return errors.New("it is not refused")
		}
		return nil
	})
}

// TestDeletedPodEnds: its processes, and those they started, are gone with it.
func TestDeletedPodEnds(t *testing.T) {
	w := newWorld(t)
	name := w.pod(`terminationGracePeriodSeconds: 1`, "sleep 12345 & echo begun; while :; do sleep 54321; done")
	w.wait(name, corev1.PodRunning)
	lab.Wait(t, "it runs", func() error {
		if runs("sleep\x0012345\x00") && runs("sleep\x0054321\x00") {
			return nil
		}
		return errors.New("no process")
	})
	cluster.Kubectl(t, "delete", "pod", name, "-n", w.namespace, "--wait=true")
	assert.False(t, runs("sleep\x0012345\x00"))
	assert.False(t, runs("sleep\x0054321\x00"))
}

// TestJobDeadline: the Job controller ends what takes too long.
func TestJobDeadline(t *testing.T) {
	w := newWorld(t)
	cluster.KubectlInput(t, `
apiVersion: batch/v1
kind: Job
metadata: {name: long, namespace: `+w.namespace+`}
spec:
  backoffLimit: 0
  activeDeadlineSeconds: 2
  template:
    metadata: {labels: {kmm.node.kubernetes.io/image-job: x}}
    spec:
      nodeName: `+w.namespace+`
      restartPolicy: Never
      terminationGracePeriodSeconds: 1
      automountServiceAccountToken: false
      containers: [{name: c, image: busybox, command: [sh, -c, 'echo begun; exec sleep 23451']}]
`, "apply", "-f", "-")
	lab.Wait(t, "the Job has failed", func() error {
		job, err := w.kube.BatchV1().Jobs(w.namespace).Get(t.Context(), "long", metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, c := range job.Status.Conditions {
			if c.Type == "Failed" && c.Reason == "DeadlineExceeded" {
				return nil
			}
		}
		return fmt.Errorf("%+v", job.Status)
	})
	lab.Wait(t, "its process ends", func() error {
		if runs("sleep\x0023451\x00") {
			return errors.New("it runs")
		}
		return nil
	})
}

// runs reports whether this machine has a process with a command line.
func runs(line string) bool {
	processes, _ := os.ReadDir("/proc")
	for _, p := range processes {
		if got, err := os.ReadFile("/proc/" + p.Name() + "/cmdline"); err == nil && string(got) == line {
			return true
		}
	}
	return false
}
