// SPDX-License-Identifier: Apache-2.0

package node

import (
	"bytes"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/ulikunitz/xz"

	"github.com/kmm-node/kmmd/pkg/images/imagestest"
	"github.com/kmm-node/kmmd/pkg/kernel"
	"github.com/kmm-node/kmmd/test/docs"
)

const (
	repository = "../../.."
	home       = "/root/pages"
	hello      = "/kmmd-test/hello" // of docs/quickstart/bare-node.md, made by ./prepare
	outside    = "registry.example"
	// The kernel that README's example has a mapping for; ./prepare has it, too.
	pagesKernel = "6.1"
	inside      = "registry.site.example"
)

// reader is somebody at a machine with nothing but a checkout, who does what the
// pages say.
type reader struct {
	docs.Reader
	t        *testing.T
	host     *kernel.Host
	internet *docs.Internet
}

func newReader(t *testing.T) *reader {
	t.Helper()
	clean(t)
	t.Cleanup(func() { clean(t) })
	copyFile(t, binary, home+"/bin/kmmd") // what make build makes
	require.NoError(t, os.MkdirAll("/usr/local/bin", 0o755))
	r := &reader{t: t, internet: docs.NewInternet(t, map[string]http.Handler{
		outside: docs.Behind(os.Getenv("KMMD_VM_REGISTRY")), inside: imagestest.NewRegistry(t),
	})}
	var err error
	r.host, err = kernel.Open("")
	require.NoError(t, err)
	r.Shell, err = docs.NewShell(home, append(r.internet.Env, "HOME="+home, "PATH=/usr/local/bin:"+os.Getenv("PATH"))...)
	require.NoError(t, err)
	t.Cleanup(r.Shell.Close)
	r.Root, r.Dir, r.Before = repository, home, r.before
	return r
}

// clean removes what the pages write, outside of directories of a test.
func clean(t *testing.T) {
	for _, path := range []string{home, "/etc/kmmd", "/etc/containers/registries.conf", "/var/lib/kmmd", "/usr/local/bin/kmmd", "/media/disk", "/srv/images"} {
		assert.NoError(t, os.RemoveAll(path))
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	require.NoError(t, err)
	require.NoError(t, os.MkdirAll(filepath.Dir(to), 0o755))
	require.NoError(t, os.WriteFile(to, data, 0o755))
}

// before leaves out what is made before, and has the daemon run beside what follows.
func (r *reader) before(t *testing.T, c *docs.Command) bool {
	switch calls, err := c.Calls(); {
	case err != nil:
		require.NoError(t, err)
	case len(calls) == 0:
	case calls[0][0] == "make":
		return false // its work is there
	case strings.Join(calls[0], " ") == "kmmd run":
		_, _, err := r.Shell.Run(t.Context(), "kmmd run >kmmd.log 2>&1 &")
		require.NoError(t, err)
		return false
	}
	return true
}

func (r *reader) read(path string) { r.t.Helper(); r.Read(r.t, path, "node") }

// push pushes an image with these files of the test modules to the registry
// outside.
func (r *reader) push(name, tag string, files ...string) {
	r.t.Helper()
	content := map[string]string{"firmware/my_driver.bin": "firmware"}
	for _, f := range files {
		data, err := os.ReadFile(filepath.Join(modules, f))
		require.NoError(r.t, err)
		content["opt/lib/modules/"+r.host.Release()+"/"+filepath.Base(f)] = string(data)
	}
	imagestest.Push(r.t, os.Getenv("KMMD_VM_REGISTRY")+"/"+name+":"+tag, imagestest.Layer(r.t, content))
}

func (r *reader) tag() string { return strings.ReplaceAll(r.host.Release(), "+", "_") }

// TestPages: what the pages say is done, word for word.
func TestPages(t *testing.T) {
	if os.Getenv("KMMD_VM_KERNEL") != pagesKernel {
		t.Skip("pages are read once, on kernel " + pagesKernel)
	}
	scenes := map[string]func(*reader, string){
		"README.md":                     (*reader).readme,
		"docs/quickstart/bare-node.md":  (*reader).bareNode,
		"docs/quickstart/air-gapped.md": (*reader).airGapped,
		"docs/cluster.md":               (*reader).otherKernel,
		"docs/migration.md":             (*reader).migration,
		"docs/troubleshooting.md":       (*reader).read,
	}
	for _, path := range docs.Labs()["node"].Pages {
		t.Run(path, func(t *testing.T) {
			require.Contains(t, scenes, path)
			scenes[path](newReader(t), path)
		})
	}
}

// readme: the Module of the page, and files to be signed.
func (r *reader) readme(path string) {
	r.push("my-driver", "special", "my_driver.ko")
	r.push("my-driver", r.tag(), "my_driver.ko")
	r.push("driver", "unsigned", "my_driver.ko", "kmm_base.ko")
	copyFile(r.t, filepath.Join(modules, "kmm_base.ko"), home+"/a.ko")
	plain, err := os.ReadFile(filepath.Join(modules, "kmm_fw.ko"))
	require.NoError(r.t, err)
	require.NoError(r.t, os.WriteFile(home+"/b.ko.xz", compress(r.t, plain), 0o644))
	copyFile(r.t, "/kmmd-test/keys/trusted.key", home+"/signing.key")
	copyFile(r.t, "/kmmd-test/keys/trusted.crt", home+"/signing.crt")
	require.NoError(r.t, os.MkdirAll(home+"/.docker", 0o755))
	require.NoError(r.t, os.WriteFile(home+"/.docker/config.json", []byte("{}"), 0o600))
	r.read(path)

	m, err := r.host.Module("my_driver")
	require.NoError(r.t, err)
	assert.Equal(r.t, "1", r.parameter("my_driver", "debug"), "of the document")
	assert.NotEmpty(r.t, m.BuildID)
	assert.FileExists(r.t, "/var/lib/firmware/my_driver.bin")
	bundles, err := filepath.Glob(home + "/kmmd-bundle-*.tar.gz")
	require.NoError(r.t, err)
	assert.Len(r.t, bundles, 1)
	r.do("rm /etc/kmmd/modules.d/*")
	r.do("kill $! && wait $!") // the daemon
	r.do("kmmd run --once")
	_, err = r.host.Module("my_driver")
	require.ErrorIs(r.t, err, kernel.ErrNotLoaded)
}

// bareNode: the image of the page was made where there is a compiler; who reads it
// is in its directory then.
func (r *reader) bareNode(path string) {
	r.do("cp -r " + hello + " hello")
	r.Elsewhere = func(b docs.Block) {
		if strings.Contains(b.Text, "cd hello") {
			r.do("cd hello")
		}
	}
	r.read(path)
	r.do("kmmd image ls | grep '^0 images'")
}

// airGapped: the registry outside is reached as long as nobody is inside.
func (r *reader) airGapped(path string) {
	r.do("kmmd image copy --from oci:" + hello + "/image --to registry.example/drivers/hello:" + r.tag())
	before := r.Before
	r.Before = func(t *testing.T, c *docs.Command) bool {
		if strings.Contains(c.Text, "--to \"registry.site.example") {
			r.internet.Cut(outside)
		}
		return before(t, c)
	}
	r.read(path)
	assert.Nil(r.t, r.internet.Host(outside), "it was cut off")
	_, err := r.host.Module("hello")
	require.ErrorIs(r.t, err, kernel.ErrNotLoaded)
}

// otherKernel: the page looks at an image for the newer kernel of the lab, which is
// this one or not.
func (r *reader) otherKernel(path string) {
	r.push("my-driver", "6.12", "my_driver.ko")
	r.Words = map[string]string{"6.12.117+deb12-cloud-amd64": r.host.Release()}
	r.read(path)
}

// migration: what somebody else has loaded, and the Module that README has.
func (r *reader) migration(path string) {
	r.push("my-driver", "special", "my_driver.ko")
	r.push("my-driver", r.tag(), "my_driver.ko")
	readme, err := docs.Read(repository, "README.md")
	require.NoError(r.t, err)
	for _, b := range readme.Blocks {
		if b.File != "" {
			require.NoError(r.t, os.MkdirAll(filepath.Dir(b.File), 0o755))
			require.NoError(r.t, os.WriteFile(b.File, []byte(b.Text), 0o644))
		}
	}
	r.do("insmod " + modules + "/my_driver.ko debug=1")
	r.read(path)
	r.do("rmmod my_driver")
}

// do runs a command of the test's own.
func (r *reader) do(command string) {
	r.t.Helper()
	out, code, err := r.Shell.Run(r.t.Context(), command)
	require.NoError(r.t, err)
	require.Zero(r.t, code, "%s\n%s", command, out)
}

func (r *reader) parameter(module, name string) string {
	r.t.Helper()
	value, err := os.ReadFile("/sys/module/" + module + "/parameters/" + name)
	require.NoError(r.t, err)
	return strings.TrimSpace(string(value))
}

func compress(t *testing.T, data []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := xz.WriterConfig{CheckSum: xz.CRC32}.NewWriter(&out)
	require.NoError(t, err)
	_, err = w.Write(data)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return out.Bytes()
}
