// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/images/imagestest"
	"github.com/kmm-node/kmmd/test/cluster/lab"
	"github.com/kmm-node/kmmd/test/cluster/machine"
)

// registry is a real one on the loopback interface, which outlives the VM.
type registry struct {
	t       *testing.T
	port    string
	program *lab.Program
}

func newRegistry(t *testing.T) *registry {
	t.Helper()
	r := &registry{t: t}
	var err error
	r.program, r.port, err = cluster.StartRegistry(t.Context(), "registry", t.TempDir())
	require.NoError(t, err)
	t.Cleanup(r.program.Kill)
	return r
}

// notInATag is what a tag can not hold, and a kernel release can.
var notInATag = regexp.MustCompile(`[^A-Za-z0-9._-]`)

// push pushes one image for each kernel: a test module, by its path in
// modules-oot, and firmware. It returns the reference as a Module has it, for all
// of them.
func (r *registry) push(name, module string, firmware map[string]string) string {
	r.t.Helper()
	for _, series := range []string{older, newer} {
		data, err := os.ReadFile(filepath.Join(machine.ModulesOf(r.t, series), module))
		require.NoError(r.t, err)
		files := map[string]string{filepath.Join("opt/lib/modules", machine.Release(r.t, series), filepath.Base(module)): string(data)}
		for path, content := range firmware {
			files["firmware/"+path] = content
		}
		tag := notInATag.ReplaceAllString(machine.Release(r.t, series), "_")
		imagestest.Push(r.t, fmt.Sprintf("127.0.0.1:%s/%s:%s", r.port, name, tag), imagestest.Layer(r.t, files))
	}
	return fmt.Sprintf("10.0.2.2:%s/%s:${KERNEL_FULL_VERSION}", r.port, name)
}
