// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kmm-node/kmmd/test/docs"
)

// Reader is somebody who does what pages say: the administrator, with kubectl, helm
// and our programs, in a directory that has of the repository only deploy. It ends
// with the test.
func (c *Cluster) Reader(t *testing.T, env ...string) *docs.Reader {
	t.Helper()
	dir := t.TempDir()
	if err := os.Symlink(filepath.Join(c.repo, "deploy"), filepath.Join(dir, "deploy")); err != nil {
		t.Fatal(err)
	}
	programs := filepath.Join(c.repo, ".lab")
	shell, err := docs.NewShell(dir, append(env, "KUBECONFIG="+c.KubeconfigPath(), "HOME="+dir, "EDITOR=true", "KMMD_CLUSTER=false",
		"PATH="+strings.Join([]string{programs + "/bin", programs + "/helm/bin", dir, c.options.Bin, os.Getenv("PATH")}, ":"))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(shell.Close)
	return &docs.Reader{Shell: shell, Root: c.repo, Dir: dir}
}
