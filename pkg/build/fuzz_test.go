// SPDX-License-Identifier: Apache-2.0

package build_test

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/assert"
	corev1 "k8s.io/api/core/v1"

	"github.com/kmm-node/kmmd/pkg/build"
)

// FuzzOutcome has anything for what a container left as its last words, and for
// how its pod ended.
func FuzzOutcome(f *testing.F) {
	f.Add(`{"digest":"sha256:00","signed":2,"unchanged":true}`, "Error", "Succeeded", int32(0))
	f.Add(`{"reason":"NoModules","message":"the image has nothing"}`, "OOMKilled", "Failed", int32(137))
	f.Add("error: step 3\n\x1b[31mgcc: no such file", "", "Running", int32(1))
	f.Fuzz(func(t *testing.T, message, reason, phase string, code int32) {
		for _, kind := range []build.Kind{build.Publish, build.Check} {
			p := play(t, kind)
			for i := range p.job.Spec.Template.Spec.Containers {
				p.at(p.job.Spec.Template.Spec.Containers[i].Name, corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
					ExitCode: code, Reason: reason, Message: message}})
			}
			p.pod.Status.Phase = corev1.PodPhase(phase)
			r := p.outcome()
			assert.Contains(t, []build.State{build.Running, build.Succeeded, build.Failed}, r.State)
			if r.State == build.Failed {
				assert.NotEmpty(t, r.Reason)
			}
			if r.Digest != "" {
				var said struct{ Digest string }
				assert.NoError(t, json.Unmarshal([]byte(message), &said))
				assert.Equal(t, said.Digest, r.Digest)
			}
		}
	})
}
