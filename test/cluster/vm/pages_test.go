// SPDX-License-Identifier: Apache-2.0

package vm

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/test/docs"
	"github.com/kmm-node/kmmd/test/docs/hello"
)

// outside is what pages call a registry.
const outside = "registry.example"

// reader is somebody with kubectl and a checkout, who does what the pages say.
type reader struct {
	*docs.Reader
	n *node
}

// newReader is for a node that has booted, and asks the registry for what is
// outside.
func newReader(n *node, r *registry) *reader {
	t := n.t
	t.Helper()
	internet := docs.NewInternet(t, map[string]http.Handler{outside: docs.Behind("127.0.0.1:" + r.port)})
	d := &reader{cluster.Reader(t, internet.Env...), n}
	image, err := hello.Dir(d.Root, n.Release)
	require.NoError(t, err)
	require.NoError(t, os.Symlink(image, filepath.Join(d.Dir, "hello")))
	require.NoError(t, os.Symlink(filepath.Join(d.Root, ".lab/bin/kmm-watcher"), filepath.Join(d.Dir, "kubectl-kmm")))
	d.Before = d.before
	d.Words = map[string]string{
		"6.1.0-56-cloud-amd64": n.Release, "RELEASE": n.Release, "NODE": nodeName, "NAME": "my-driver", "NAMESPACE": "default", "JOB": "some",
	}
	d.pushMyDriver(r)
	return d
}

// pushMyDriver pushes the image of README's Module, which has it by two names.
func (d *reader) pushMyDriver(r *registry) {
	t := d.n.t
	t.Helper()
	r.push("my-driver", "my_driver.ko", map[string]string{"my_driver.bin": "firmware"})
	d.do(fmt.Sprintf("kmmd image copy --from %[1]s/my-driver:%s --to %[1]s/my-driver:special", outside, notInATag.ReplaceAllString(d.n.Release, "_")))
}

// do runs a command of the test's own, and returns what it prints.
func (d *reader) do(command string) string {
	d.n.t.Helper()
	out, code, err := d.Shell.Run(d.n.t.Context(), command)
	require.NoError(d.n.t, err)
	require.Zero(d.n.t, code, "%s\n%s", command, out)
	return strings.TrimSpace(out)
}

// readPages: what pages say is done, word for word: blocks first, and then what
// they say of kubectl by the way.
func (n *node) readPages(r *registry) *reader {
	n.t.Helper()
	d := newReader(n, r)
	for _, path := range docs.Labs()["cluster"].Pages {
		switch path {
		case "README.md":
			n.WaitRuns(nil, "hello=")
			d.writeMyDriver(path)
		case "docs/status-page.md":
			d.do("kubectl -n kmm-system rollout status deployment/kmm-watcher") // no pod is on its way out
			d.Words["NAME"] = d.do("kubectl -n kmm-system get pods -l app.kubernetes.io/name=kmm-watcher -o jsonpath='{.items[0].metadata.name}'")
		}
		d.Read(n.t, path, "cluster")
		d.Words["NAME"] = "my-driver"
		d.Words["POD"] = d.do("kubectl -n kmm-system get pods -l app.kubernetes.io/name=kmmd -o jsonpath='{.items[0].metadata.name}'")
		if path == "README.md" {
			n.WaitRuns([]string{"my_driver.debug=1", "firmware/my_driver.bin=firmware"})
		}
	}
	d.inline()
	d.do("kubectl delete module my-driver")
	n.WaitRuns(nil, "my_driver=")
	return d
}

// writeMyDriver writes the Module of a page, with a selector.
func (d *reader) writeMyDriver(path string) {
	page, err := docs.Read(d.Root, path)
	require.NoError(d.n.t, err)
	for _, b := range page.Blocks {
		if filepath.Base(b.File) == "my-driver.yaml" {
			text := strings.Replace(b.Text, "\nspec:\n", "\nspec:\n  selector: {}\n", 1)
			require.NoError(d.n.t, os.WriteFile(filepath.Join(d.Dir, "my-driver.yaml"), []byte(text), 0o600))
			return
		}
	}
	require.Fail(d.n.t, "the page has no my-driver.yaml")
}

// warnedOf is what a page says not to do.
const warnedOf = "kubectl delete -k YOUR-OVERLAY"

// migrates is the page that stops kmm-watcher and removes its policies.
func migrates(p *docs.Page) bool { return p.Path == "docs/migration.md" }

// inline runs what lines of text say of kubectl, those of the page that takes things away at last,
// which are put back. What several pages say is run once: kubectl restarts nothing twice in a second.
func (d *reader) inline() {
	d.do("kubectl create job some --image=none")
	d.do("printf 'apiVersion: kmm.sigs.x-k8s.io/v1beta2\nkind: PreflightValidation\nmetadata: {name: my-driver}\nspec: {kernelVersion: %s}\n' " + d.n.Release + " | kubectl apply -f -")
	all, err := docs.All(d.Root)
	require.NoError(d.n.t, err)
	said := map[string]bool{}
	for _, page := range append(slices.DeleteFunc(slices.Clone(all), migrates), all[slices.IndexFunc(all, migrates)]) {
		for _, s := range page.Spans {
			if c, ok := s.Command("kubectl"); ok && c.Text != warnedOf && !said[c.Text] {
				said[c.Text] = true
				d.n.t.Run(c.String(), func(t *testing.T) { d.Run(t, c) })
			}
		}
	}
	assert.Greater(d.n.t, len(said), 25)
	d.do("kubectl delete job/some pfv/my-driver && kubectl apply --server-side -k deploy/base")
}

// needsKubelet are commands that the API server hands on to a kubelet, and what it
// says when there is none: then it has understood all else.
var (
	needsKubelet = regexp.MustCompile(`^kubectl .*\b(exec|logs|port-forward)\b`)
	noKubelet    = regexp.MustCompile(`dial tcp 127\.0\.0\.1:10250: connect: connection refused`)
)

// before does what takes somebody at a terminal, or a kubelet.
func (d *reader) before(t *testing.T, c *docs.Command) bool {
	switch {
	case strings.HasPrefix(c.Text, "make "):
		return false
	case needsKubelet.MatchString(c.Text):
		out, code, err := d.Shell.Run(t.Context(), c.Text)
		require.NoError(t, err)
		require.NotZero(t, code, c)
		assert.Regexp(t, noKubelet, out, c)
		t.Logf("%s\n%s", c, out)
		return false
	case strings.Contains(c.Text, "--watch"): // it ends by Ctrl-C
		// In the foreground: else timeout interrupts its process group as well, and who is interrupted twice is to end at once.
		c.Text = "timeout --foreground --preserve-status -s INT 10 " + c.Text
	case strings.HasPrefix(c.Text, "kubectl delete -k"): // a namespace goes for a minute
		c.Text += " --wait=false"
	case strings.HasPrefix(c.Text, "kubectl drain"): // there is no other node for these
		d.do("kubectl -n kmm-system scale deployment kmm-watcher --replicas=0")
	}
	return true
}

// end takes away what the pages have installed, as they say.
func (d *reader) end() { d.Read(d.n.t, "docs/quickstart/cluster.md", "cluster-end") }
