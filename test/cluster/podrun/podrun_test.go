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
	"k8s.io/apimachinery/pkg/util/yaml"

	"github.com/kmm-node/kmmd/test/cluster/lab"
)

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

// TestArguments: what the kubelet does to $ in them, which text of users is
// protected from.
func TestArguments(t *testing.T) {
	w := newWorld(t)
	name := w.pod(`containers: [{env: [{name: A, value: one}, {name: B, value: $(A)-two}], args: [$(B), $(C), $$(A), $$$$, $A, $]}]`,
		`echo "$$B $$0 $$*"`)
	w.wait(name, corev1.PodSucceeded)
	assert.Equal(t, "one-two one-two $(C) $(A) $$ $A $\n", w.log(name, "c0"))
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

// TestPodDeadline: the kubelet ends what takes too long for a pod, and the last
// words stay.
func TestPodDeadline(t *testing.T) {
	w := newWorld(t)
	// Long enough for the container to start, however slow the machine is.
	name := w.pod(`{activeDeadlineSeconds: 10, terminationGracePeriodSeconds: 1}`, "echo begun; exec sleep 34512")
	pod := w.wait(name, corev1.PodFailed)
	assert.Equal(t, "DeadlineExceeded", pod.Status.Reason)
	end := pod.Status.ContainerStatuses[0].State.Terminated
	require.NotNil(t, end)
	assert.Equal(t, int32(137), end.ExitCode)
	assert.Equal(t, "begun\n", end.Message)
	assert.Equal(t, "begun\n", w.log(name, "c0"))
	assert.False(t, runs("sleep\x0034512\x00"))
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
