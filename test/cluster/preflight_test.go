// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kmm-node/kmmd/pkg/api/client"
	"github.com/kmm-node/kmmd/pkg/api/v1beta2"
)

func preflights(t *testing.T) *client.Resource[v1beta2.PreflightValidation, v1beta2.PreflightValidationList] {
	t.Helper()
	c, err := client.New(cluster.Config())
	require.NoError(t, err)
	return c.PreflightValidations()
}

func preflight(name, kernel string) *v1beta2.PreflightValidation {
	return &v1beta2.PreflightValidation{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1beta2.PreflightValidationSpec{KernelVersion: kernel}}
}

func TestPreflightKernel(t *testing.T) {
	const rule = "as uname -r prints it"
	r := preflights(t)
	for _, tt := range []struct{ name, kernel, says string }{
		{"of a distribution", "6.1.0-56-cloud-amd64", ""},
		{"of the operator's example", "5.8.18-101.fc31.x86_64", ""},
		{"with a plus", "6.1.0+", ""},
		{"with what no tag can have", "5.14.0-284.11.1.el9_2.x86_64+rt", ""},
		{"of three parts", "6.1-rc1", ""},
		{"nothing", "", rule},
		{"of two parts", "6.1", rule},
		{"a word", "latest", rule},
		{"a path", "/lib/modules/6.1.0", rule},
		{"a sentence", "kernel 6.1.0 please", rule},
		{"too long", "6.1.0-" + strings.Repeat("x", 60), "may not be more than 64"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := r.Create(t.Context(), preflight("p", tt.kernel), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
			if tt.says == "" {
				require.NoError(t, err)
				return
			}
			require.True(t, apierrors.IsInvalid(err), "%v", err)
			assert.ErrorContains(t, err, "spec.kernelVersion:")
			assert.ErrorContains(t, err, tt.says)
		})
	}
}

// TestPreflightVersions: what was written for the older version of the API works,
// and the status is the same in both.
func TestPreflightVersions(t *testing.T) {
	r := preflights(t)
	out := cluster.KubectlInput(t, `
apiVersion: kmm.sigs.x-k8s.io/v1beta1
kind: PreflightValidation
metadata: {name: older}
spec: {kernelVersion: 4.18.0-372.32.1.el8_6.x86_64, pushBuiltImage: true}
`, "apply", "-f", "-")
	assert.Contains(t, out, "older")
	t.Cleanup(func() {
		assert.NoError(t, r.Delete(context.WithoutCancel(t.Context()), "older", metav1.DeleteOptions{}))
	})
	p, err := r.Get(t.Context(), "older", metav1.GetOptions{})
	require.NoError(t, err)
	assert.Equal(t, v1beta2.PreflightValidationSpec{KernelVersion: "4.18.0-372.32.1.el8_6.x86_64", PushBuiltImage: true}, p.Spec)

	p.Status = v1beta2.PreflightValidationStatus{
		Conditions: []metav1.Condition{{Type: v1beta2.ConditionVerified, Status: metav1.ConditionFalse, Reason: "Failed", Message: "1 of 2 ready", LastTransitionTime: metav1.Now()}},
		Modules: []v1beta2.PreflightValidationModuleStatus{
			moduleStatus("a", v1beta2.VerificationInProgress, v1beta2.VerificationStageContent),
			moduleStatus("b", v1beta2.VerificationSuccess, v1beta2.VerificationStageDone),
		},
	}
	_, err = r.UpdateStatus(t.Context(), p, metav1.UpdateOptions{})
	require.NoError(t, err)
	get := func(as string) string {
		return cluster.Kubectl(t, "get", as, "older", "-o", `jsonpath={range .status.modules[*]}{.namespace}/{.name} {.verificationStage} {.verificationStatus}{"\n"}{end}`)
	}
	want := "default/a Content InProgress\ndefault/b Done Success\n"
	assert.Equal(t, want, get("preflightvalidations.v1beta2.kmm.sigs.x-k8s.io"))
	assert.Contains(t, get("preflightvalidations.v1beta1.kmm.sigs.x-k8s.io"), want, "with a warning before it")
	assert.Regexp(t, `older\s+4.18.0-372.32.1.el8_6.x86_64\s+False\s+1 of 2 ready`, cluster.Kubectl(t, "get", "pfv"))

	p, err = r.Get(t.Context(), "older", metav1.GetOptions{})
	require.NoError(t, err)
	for _, wrong := range []v1beta2.PreflightValidationModuleStatus{
		moduleStatus("a", "True", v1beta2.VerificationStageDone), moduleStatus("a", v1beta2.VerificationFailure, "Build"),
	} {
		p.Status.Modules = []v1beta2.PreflightValidationModuleStatus{wrong}
		_, err := r.UpdateStatus(t.Context(), p, metav1.UpdateOptions{})
		assert.True(t, apierrors.IsInvalid(err), "%v", err)
	}
}

func moduleStatus(name, status, stage string) v1beta2.PreflightValidationModuleStatus {
	return v1beta2.PreflightValidationModuleStatus{Name: name, Namespace: "default", CRBaseStatus: v1beta2.CRBaseStatus{
		VerificationStatus: status, VerificationStage: stage, LastTransitionTime: metav1.NewTime(time.Now()),
	}}
}
