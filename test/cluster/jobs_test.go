// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// weakest is the least strict Pod Security Standard of the pods of each golden
// Job of pkg/build.
var weakest = map[string]string{
	"annotated-publish":  "baseline", // kaniko is root
	"annotated-rehearse": "baseline",
	"build-publish":      "baseline",
	"build-rehearse":     "baseline",
	"merged-kaniko":      "privileged", // /lib/modules of the node
	"merged-buildah":     "privileged", // CAP_SYS_ADMIN
	"merged-check":       "restricted",
	"plain-check":        "restricted",
	"sign-publish":       "restricted",
	"sign-rehearse":      "restricted",
}

// TestJobs: the API server takes the Jobs as they are, and their pods at the
// level that the documentation promises and at no stricter one.
func TestJobs(t *testing.T) {
	paths, err := filepath.Glob("../../pkg/build/testdata/*.golden.yaml")
	require.NoError(t, err)
	require.Len(t, paths, len(weakest))
	c, err := kubernetes.NewForConfig(cluster.Config())
	require.NoError(t, err)
	dryRun := metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}, FieldValidation: metav1.FieldValidationStrict}
	levels := []string{"privileged", "baseline", "restricted"}
	for _, level := range levels {
		namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "jobs-" + level,
			Labels: map[string]string{"pod-security.kubernetes.io/enforce": level}}}
		_, err := c.CoreV1().Namespaces().Create(t.Context(), namespace, metav1.CreateOptions{})
		require.NoError(t, err)
		for _, name := range []string{"default", "sa-module-loader", "loader"} {
			account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}
			_, err := c.CoreV1().ServiceAccounts(namespace.Name).Create(t.Context(), account, metav1.CreateOptions{})
			require.NoError(t, err)
		}
	}
	for _, path := range paths {
		name := strings.TrimSuffix(filepath.Base(path), ".golden.yaml")
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile(path)
			require.NoError(t, err)
			var plain any
			require.NoError(t, yaml.Unmarshal(text, &plain))
			asJSON, err := json.Marshal(plain)
			require.NoError(t, err)
			job := &batchv1.Job{}
			require.NoError(t, json.Unmarshal(asJSON, job))
			refused := false
			for _, level := range levels {
				job.Namespace = "jobs-" + level
				_, err := c.BatchV1().Jobs(job.Namespace).Create(t.Context(), job, dryRun)
				require.NoError(t, err)
				pod := &corev1.Pod{ObjectMeta: *job.Spec.Template.ObjectMeta.DeepCopy(), Spec: job.Spec.Template.Spec}
				pod.Name = job.Name + "-abcde"
				_, err = c.CoreV1().Pods(job.Namespace).Create(t.Context(), pod, dryRun)
				if refused {
					assert.ErrorContains(t, err, "violates PodSecurity", level)
				} else {
					assert.NoError(t, err, level)
				}
				refused = refused || level == weakest[name]
			}
		})
	}
}
