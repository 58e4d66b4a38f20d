// SPDX-License-Identifier: Apache-2.0

package build

import (
	"encoding/hex"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kmm-node/kmmd/pkg/sign"
	"github.com/kmm-node/kmmd/test/cluster/podrun"
)

// TestHunt: a Dockerfile, which anybody may have written, finds neither what pushes
// nor what signs, in whatever file, environment or process it looks; nor does the
// program that runs it, should somebody break out of a RUN step. What it may see is
// found: the build's secrets, and, outside, what base images are pulled with.
func TestHunt(t *testing.T) {
	w := begin(t, "hunt")
	// Two pull secrets, so that the container `credentials` joins them. The base image
	// is behind the second one.
	w.secret("elsewhere", corev1.SecretTypeDockerConfigJson, corev1.DockerConfigJsonKey, login("x", "registry.example"))
	w.secret("pull", corev1.SecretTypeDockerConfigJson, corev1.DockerConfigJsonKey, login(pullPassword, registry.host))
	cluster.KubectlInput(t, fmt.Sprintf(`apiVersion: v1
kind: ServiceAccount
metadata: {name: builder, namespace: %s}
imagePullSecrets: [{name: elsewhere}, {name: pull}, {name: push}]
`, w.namespace), "apply", "-f", "-")
	hunt := "/hunt -skip /usr " + strings.Join(w.prey(), " ")
	w.dockerfile("df", strings.ReplaceAll(tinyDockerfile("RUN "+hunt+" >/opt/hunt"), tiny, locked))
	w.apply(document{tag: "one", dockerfile: "df", sign: tinyModule, account: "builder"})
	w.waitImage("m", "one", "Ready")
	require.NoError(t, sign.Verify(w.module(w.image("one")), w.cert))

	j := w.waitJob(1)
	t.Log(w.log(j.Name, "build"))
	// In the image, not in the log: buildah was seen to lose what a RUN step had printed, all of it.
	inRun := string(file(t, w.pulled(w.image("one")), "opt/hunt"))
	t.Log(inRun)
	assert.Contains(t, inRun, "found token in /run/secrets/token/", "the build's secret is there")
	assertNothing(t, inRun)

	// In the place of the builder, with all that is mounted there.
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "hunt", Labels: map[string]string{podrun.Label: "hunt"}}, Spec: j.Spec.Template.Spec}
	for i := range pod.Spec.InitContainers {
		if c := &pod.Spec.InitContainers[i]; c.Name == "build" {
			c.Command, c.Args = []string{"/bin/sh", "-c", hunt}, nil
			pod.Spec.Containers = []corev1.Container{*c}
		}
	}
	require.Len(t, pod.Spec.InitContainers, 2, "credentials, build")
	pod.Spec.InitContainers, pod.Spec.NodeName = pod.Spec.InitContainers[:1], w.namespace
	_, err := w.kube.CoreV1().Pods(w.namespace).Create(t.Context(), pod, metav1.CreateOptions{})
	require.NoError(t, err)
	w.wait("the hunt ends", func() error {
		p, err := w.kube.CoreV1().Pods(w.namespace).Get(t.Context(), "hunt", metav1.GetOptions{})
		if err == nil && p.Status.Phase != corev1.PodSucceeded {
			err = fmt.Errorf("it is %s", p.Status.Phase)
		}
		return err
	})
	outside := cluster.Kubectl(t, "logs", "-n", w.namespace, "hunt", "-c", "build")
	t.Log(outside)
	assert.Contains(t, outside, "found token in /run/secrets/token/")
	assert.Contains(t, outside, "found pull-encoded in /pull/config.json")
	assertNothing(t, outside)
}

// prey is what the hunt is for: the passwords as they are and as a pull secret has
// them, and some lines of the key.
func (w *world) prey() []string {
	w.t.Helper()
	key := strings.Split(keyFile(w.t, "trusted.key"), "\n")
	var out []string
	for _, marker := range [][2]string{
		{"token", tokenMarker}, {"pull", pullPassword}, {"pull-encoded", auth(pullPassword)},
		{"push", pushPassword}, {"push-encoded", auth(pushPassword)}, {"key", key[1]}, {"key-end", key[len(key)-3]},
	} {
		out = append(out, marker[0]+"="+hex.EncodeToString([]byte(marker[1])))
	}
	return out
}

var looked = regexp.MustCompile(`looked at (\d+) files and (\d+) processes`)

// assertNothing requires that a hunt came to its end and found nothing that is
// secret.
func assertNothing(t *testing.T, log string) {
	t.Helper()
	assert.Regexp(t, looked, log)
	assert.NotContains(t, log, "found push")
	assert.NotContains(t, log, "found key")
}
