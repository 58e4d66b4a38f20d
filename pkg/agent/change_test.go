// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/kernel/kerneltest"
	"github.com/kmm-node/kmmd/pkg/kmod/kmodtest"
)

// chainOf are modules of which each needs the one before.
func chainOf(length int) map[string]kmodtest.Spec {
	files := map[string]kmodtest.Spec{}
	for i := range length {
		s := kmodtest.Spec{Vermagic: kerneltest.Vermagic(release), Exports: []string{fmt.Sprint("symbol", i)}}
		if i > 0 {
			s.Depends, s.Imports = []string{fmt.Sprint("link", i-1)}, []string{fmt.Sprint("symbol", i-1)}
		}
		files[fmt.Sprintf("link%d.ko", i)] = s
	}
	return files
}

// processorTime is what this process has used.
func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var use syscall.Rusage
	require.NoError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &use))
	return time.Duration(use.Utime.Nano() + use.Stime.Nano())
}

// BenchmarkChange is a Module that is asked for, with its image in the store, and
// taken away again: all that kmmd does but for the document and the kernel.
func BenchmarkChange(b *testing.B) {
	for _, length := range []int{1, 10} {
		b.Run(fmt.Sprint(length), func(b *testing.B) {
			n := newNode(b)
			w := want{name: "chain", module: fmt.Sprint("link", length-1), image: n.image("1", chainOf(length), nil)}
			desired, nothing := documents(w), documents()
			require.True(b, n.reconcileNode(desired).OK())
			n.reconcileNode(nothing)
			b.ReportAllocs()
			before := processorTime(b)
			for b.Loop() {
				n.reconcileNode(desired)
				n.reconcileNode(nothing)
			}
			b.ReportMetric(float64((processorTime(b)-before).Microseconds())/float64(b.N), "cpu-µs/op")
			require.Len(b, n.calls(), 2*length*(b.N+1))
		})
	}
}
