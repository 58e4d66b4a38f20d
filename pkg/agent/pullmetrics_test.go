// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/kmm-node/kmmd/pkg/images"
)

func TestPullMetrics(t *testing.T) {
	metrics, registry := newMetrics()
	pulls := func() string {
		var out []string
		for _, line := range figures(t, registry) {
			if rest, ok := strings.CutPrefix(line, "kmmd_image_"); ok {
				out = append(out, rest)
			}
		}
		return strings.Join(out, "\n")
	}
	metrics.Pull(images.Progress{Ref: "a:1", Phase: images.PhaseResolve})
	metrics.Pull(images.Progress{Ref: "a:1", Phase: images.PhaseFetch, Bytes: 10, Total: 100, Written: 1})
	metrics.Pull(images.Progress{Ref: "b:1", Phase: images.PhaseResolve, Bytes: 5, Total: 7})
	metrics.Pull(images.Progress{Ref: "a:1", Phase: images.PhaseFetch, Bytes: 100, Total: 100, Written: 30, Resumes: 2})
	assert.Equal(t, `fetched_bytes_total 105
pull_bytes{image="a:1"} 100
pull_bytes{image="b:1"} 5
pull_duration_seconds_count 0
pull_phase_duration_seconds_count{phase="resolve"} 1
pull_total_bytes{image="a:1"} 100
pull_total_bytes{image="b:1"} 7
pulls_total{result="failed"} 0
pulls_total{result="ok"} 0
resumes_total 2
written_bytes_total 30`, pulls())
	metrics.Pull(images.Progress{Ref: "a:1", Phase: images.PhaseFetch, Bytes: 100, Total: 100, Written: 30, Resumes: 2, Done: true})
	metrics.Pull(images.Progress{Ref: "b:1", Phase: images.PhaseResolve, Bytes: 5, Total: 7, Done: true, Err: errors.New("no")})
	metrics.Pull(images.Progress{Ref: "a:1", Phase: images.PhaseResolve, Bytes: 1, Done: true})
	assert.Equal(t, `fetched_bytes_total 106
pull_duration_seconds_count 2
pull_phase_duration_seconds_count{phase="fetch"} 1
pull_phase_duration_seconds_count{phase="resolve"} 3
pulls_total{result="failed"} 1
pulls_total{result="ok"} 2
resumes_total 2
written_bytes_total 30`, pulls(), "another pull of the same image starts anew")
}
