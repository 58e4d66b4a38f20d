// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/images/imagestest"
	"github.com/kmm-node/kmmd/pkg/kmod"
	"github.com/kmm-node/kmmd/test/e2e/worker"
)

const repository = "../.."

// startRegistry starts a registry and puts into it what nodes will ask
// registry.example for: the images that ship, those of the lab's pods, and one with
// each of two drivers for each kernel release. It returns its port.
func startRegistry(t *testing.T, releases []string) string {
	t.Helper()
	program, port, err := cluster.StartRegistry(t.Context(), "registry", t.TempDir())
	require.NoError(t, err)
	t.Cleanup(program.Kill)
	at := "127.0.0.1:" + port
	for _, image := range []string{"kmmd", "kmm-watcher"} {
		ship(t, image, at)
	}
	another(t, at)
	pods(t, at+"/lab/pods:1")
	for _, release := range releases {
		for _, name := range []string{"dummy", "kmm_base"} {
			tag := regexp.MustCompile(`[^A-Za-z0-9._-]`).ReplaceAllString(release, "_")
			module, err := os.ReadFile(built(release, name))
			require.NoError(t, err)
			imagestest.Push(t, at+"/lab/"+name+":"+tag, imagestest.Layer(t, map[string]string{
				"opt/lib/modules/" + release + "/" + name + ".ko": string(module), "firmware/" + name + ".bin": "for " + release,
			}))
		}
	}
	return port
}

// pods pushes the image that other pods than those of what is tested run.
func pods(t *testing.T, ref string) {
	t.Helper()
	var entries []imagestest.Entry
	for _, name := range []string{"pods", "dra"} {
		data, err := os.ReadFile(filepath.Join(repository, ".lab", "e2e", "pods", name))
		require.NoError(t, err, "run test/e2e/setup (make setup-e2e)")
		entries = append(entries, imagestest.Entry{Name: name, Body: string(data), Mode: 0o755})
	}
	img := imagestest.Image(t, imagestest.Compress(t, imagestest.Tar(t, entries...), imagestest.None))
	img, err := mutate.Config(img, v1.Config{Entrypoint: []string{"/pods"}, Cmd: []string{"pause"}})
	require.NoError(t, err)
	imagestest.PushImage(t, ref, img)
}

// ship copies an image that `make images` made into the registry, with its
// version as a tag.
func ship(t *testing.T, image, registry string) {
	t.Helper()
	layout, err := filepath.Abs(filepath.Join(repository, "dist", "images", image))
	require.NoError(t, err)
	cmd := exec.Command(repository+"/.lab/bin/kmmd", "image", "copy", "--from", "oci:"+layout,
		"--to", registry+"/kmm/"+image+":"+version(t, image), "--insecure-to")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// nextTag is that of another image of kmmd.
const nextTag = "next"

// another pushes an image of kmmd with the same content and another digest, as
// the next version would be.
func another(t *testing.T, registry string) {
	t.Helper()
	from, err := name.ParseReference(registry+"/kmm/kmmd:"+version(t, "kmmd"), name.Insecure)
	require.NoError(t, err)
	img, err := remote.Image(from, remote.WithContext(t.Context()))
	require.NoError(t, err)
	file, err := img.ConfigFile()
	require.NoError(t, err)
	config := *file.Config.DeepCopy()
	config.Labels = map[string]string{"org.opencontainers.image.version": nextTag}
	img, err = mutate.Config(img, config)
	require.NoError(t, err)
	imagestest.PushImage(t, registry+"/kmm/kmmd:"+nextTag, img)
}

// version of an image that `make images` made.
func version(t *testing.T, image string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(repository, "dist", "images", image, "index.json"))
	require.NoError(t, err, "run make images")
	var index v1.IndexManifest
	require.NoError(t, json.Unmarshal(data, &index))
	require.Len(t, index.Manifests, 1)
	return index.Manifests[0].Annotations["org.opencontainers.image.ref.name"]
}

// built is the file of a driver that Modules bring, for a kernel.
func built(release, name string) string {
	return filepath.Join(repository, ".lab", release, "modules-oot", name+".ko")
}

// buildOf is the build-id of one of them.
func buildOf(t *testing.T, release, name string) string {
	t.Helper()
	return buildID(t, built(release, name))
}

// inTreeBuild is the build-id of the dummy driver of a kernel itself.
func inTreeBuild(t *testing.T, release string) string {
	t.Helper()
	tree, err := kmod.OpenTree(filepath.Join(repository, ".lab", release, "lib", "modules", release))
	require.NoError(t, err)
	path, ok := tree.Find("dummy")
	require.True(t, ok)
	return buildID(t, path)
}

func buildID(t *testing.T, file string) string {
	t.Helper()
	info, err := kmod.ReadInfo(file)
	require.NoError(t, err)
	require.NotEmpty(t, info.BuildID)
	return info.BuildID
}

// overlay is a kustomization as docs/install.md says that everybody has one: it
// names images, and changes nothing else.
type overlay struct{ dir string }

func newOverlay(t *testing.T) overlay { return overlay{t.TempDir()} }

// set writes it: the tag of the image of kmmd, and components of deploy.
func (o overlay) set(t *testing.T, kmmd string, components ...string) {
	t.Helper()
	root, err := filepath.Abs(repository)
	require.NoError(t, err)
	root, err = filepath.Rel(o.dir, root)
	require.NoError(t, err)
	text := fmt.Sprintf(`resources: [%s/deploy/kubernetes]
images:
- {name: kmmd, newName: registry.example/kmm/kmmd, newTag: %s}
- {name: kmm-watcher, newName: registry.example/kmm/kmm-watcher, newTag: %s}
components:
`, root, kmmd, version(t, "kmm-watcher"))
	for _, c := range components {
		text += "- " + root + "/deploy/components/" + c + "\n"
	}
	require.NoError(t, os.WriteFile(filepath.Join(o.dir, "kustomization.yaml"), []byte(text), 0o600))
}

// driverOf is what a node's kernel has of the driver, as the shell on its serial
// port sees it.
type driverOf struct {
	build, taint, parameter string
	// load is another one after each load: the number of the directory in sysfs.
	load string
}

func look(w *worker.Worker) (d driverOf) {
	out := w.Run(`cd /sys/module/dummy 2>/dev/null || exit 0
echo $(od -An -v -tx1 -j16 notes/.note.gnu.build-id | tr -d ' \n') "taint=$(cat taint)" "numdummies=$(cat parameters/numdummies 2>/dev/null)" $(stat -c %i .)`)
	fields := strings.Fields(out)
	if len(fields) == 4 {
		d = driverOf{fields[0], strings.TrimPrefix(fields[1], "taint="), strings.TrimPrefix(fields[2], "numdummies="), fields[3]}
	}
	return d
}
