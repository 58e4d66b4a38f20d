// SPDX-License-Identifier: Apache-2.0

package build

import (
	"archive/tar"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kmm-node/kmmd/pkg/build"
	"github.com/kmm-node/kmmd/pkg/kmod"
	"github.com/kmm-node/kmmd/pkg/sign"
)

// job makes a Job of a Module as kmm-watcher would, and waits for its end.
func (w *world) job(module string, kind build.Kind) *batchv1.Job {
	w.t.Helper()
	m, err := w.api.Modules(w.namespace).Get(w.t.Context(), module, metav1.GetOptions{})
	require.NoError(w.t, err)
	r, err := build.For(m, release)
	require.NoError(w.t, err)
	jobs := w.kube.BatchV1().Jobs(w.namespace)
	j, err := jobs.Create(w.t.Context(), r.Job(kind, 0, options()), metav1.CreateOptions{})
	require.NoError(w.t, err)
	w.wait("the Job ends", func() error {
		if j, err = jobs.Get(w.t.Context(), j.Name, metav1.GetOptions{}); err != nil {
			return err
		}
		if j.Status.Succeeded+j.Status.Failed == 0 {
			return errors.New(cluster.Kubectl(w.t, "describe", "pods", "-n", w.namespace))
		}
		return nil
	})
	return j
}

// pod of a Job.
func (w *world) pod(job string) *corev1.Pod {
	w.t.Helper()
	pods, err := w.kube.CoreV1().Pods(w.namespace).List(w.t.Context(), metav1.ListOptions{LabelSelector: "batch.kubernetes.io/job-name=" + job})
	require.NoError(w.t, err)
	require.Len(w.t, pods.Items, 1)
	return &pods.Items[0]
}

// TestJob: the containers of one Job build, sign and push.
func TestJob(t *testing.T) {
	w := newWorld(t, "job")
	w.standardDockerfile("df")
	w.apply("m", "df", true)
	j := w.job("m", build.Publish)
	require.Equal(t, int32(1), j.Status.Succeeded, "%s\n%s", w.log(j.Name, "build"), w.log(j.Name, "publish"))
	pod := w.pod(j.Name)
	digest, err := w.pulled(w.image("m")).Digest()
	require.NoError(t, err)
	assert.Contains(t, pod.Status.ContainerStatuses[0].State.Terminated.Message, digest.String())

	module := w.file(w.pulled(w.image("m")), "opt/lib/modules/"+release+"/extra/kmm_built.ko")
	require.NoError(t, sign.Verify(module, w.cert))
	path := filepath.Join(t.TempDir(), "kmm_built.ko")
	require.NoError(t, os.WriteFile(path, module, 0o600))
	info, err := kmod.ReadInfo(path)
	require.NoError(t, err)
	assert.Equal(t, "vanilla", info.Version)
	assert.NotEmpty(t, w.file(w.pulled(w.image("m")), "opt/lib/modules/"+release+"/modules.dep.bin"))
}

// standardDockerfile is the one that builds a module.
func (w *world) standardDockerfile(name string) {
	w.t.Helper()
	text, err := os.ReadFile("testdata/Dockerfile")
	require.NoError(w.t, err)
	w.dockerfile(name, string(text))
}

// file of an image, as a container would see it.
func (w *world) file(img v1.Image, path string) []byte {
	w.t.Helper()
	files := mutate.Extract(img)
	defer files.Close()
	for r := tar.NewReader(files); ; {
		header, err := r.Next()
		require.NoError(w.t, err, "looking for %s", path)
		if header.Name == path {
			data, err := io.ReadAll(r)
			require.NoError(w.t, err)
			return data
		}
	}
}
