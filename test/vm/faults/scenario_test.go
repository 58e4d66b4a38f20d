// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/images/imagestest"
	"github.com/kmm-node/kmmd/test/faults/points"
	"github.com/kmm-node/kmmd/test/faults/state"
)

// side is one of the two states of a change.
type side struct {
	runs     []module // in load order; those of files are kmmd's
	firmware map[string]string
	held     []string
}

func (s side) state(t *testing.T) state.State {
	t.Helper()
	out := state.State{Modules: map[string]state.Module{}, Firmware: map[string]string{}, Held: s.held}
	for path, content := range s.firmware {
		out.Firmware[path] = state.Content([]byte(content))
	}
	for _, m := range s.runs {
		out.Modules[m.name] = m.state(t)
	}
	if len(s.firmware) > 0 {
		out.Path = firmwareDir
	}
	return out
}

// ours are the modules that the ledger has to know.
func (s side) ours(t *testing.T) map[string]string {
	t.Helper()
	ids := map[string]string{}
	for _, m := range s.runs {
		if m.file != "" {
			ids[m.name] = m.state(t).BuildID
		}
	}
	return ids
}

// image is what a document asks for.
type image struct {
	name     string
	files    []string // below modules
	firmware map[string]string
}

// scenario is a change of the node.
type scenario struct {
	name         string
	from, to     side
	fromImage    *image // nil: no document
	toImage      *image
	fails        bool // to is the same as from, as the kernel refuses the module of toImage
	pulls        bool // toImage is not in the store yet
	neighbour    bool // another Module has kmm_base loaded, before and after
	moduleName   string
	remove       string // inTreeModulesToRemove
	order        string // modulesLoadingOrder
	fromSnapshot *snapshot
	points       []points.Point
}

var (
	inTreeRuns = []module{{"dummy", "", ""}, {"null_blk", "", "nr_devices=2"}}
	firstRuns  = []module{{"kmm_base", "kmm_base.ko", ""}, {"kmm_dep", "kmm_dep.ko", ""}, {"dummy", "variants/second/dummy.ko", "numdummies=2"}}
	ourRuns    = []module{{"kmm_base", "kmm_base.ko", ""}, {"kmm_dep", "kmm_dep.ko", ""}, {"dummy", "dummy.ko", "numdummies=2"}}
	fwRuns     = []module{{"kmm_base", "kmm_base.ko", ""}, {"kmm_dep", "kmm_dep.ko", ""}, {"kmm_fw", "kmm_fw.ko", ""}}

	oldFirmware = map[string]string{"a.bin": "old", "sub/b.bin": "b", "same.bin": "same"}
	newFirmware = map[string]string{"a.bin": "new", "sub/c.bin": "c", "same.bin": "same"}

	firstImage = &image{"first", []string{"variants/second/dummy.ko", "kmm_dep.ko", "kmm_base.ko"}, oldFirmware}
	ourImage   = &image{"ours", []string{"dummy.ko", "kmm_dep.ko", "kmm_base.ko"}, newFirmware}
	badImage   = &image{"bad", []string{"variants/init-fails/dummy.ko", "kmm_dep.ko", "kmm_base.ko"}, newFirmware}
	baseImage  = &image{"base", []string{"kmm_base.ko"}, nil}
	soloImage  = &image{"solo", []string{"dummy.ko"}, map[string]string{"a.bin": "a", "large.bin": incompressible(24 << 10)}}
	fwImage    = &image{"fw", []string{"kmm_fw.ko", "kmm_dep.ko", "kmm_base.ko"}, map[string]string{"kmm/fw.bin": "firmware"}}

	both = []string{"dummy", "null_blk"}
)

// changes are what a node goes through.
var changes = scenarios()

func scenarios() []*scenario {
	swap := scenario{moduleName: "dummy", remove: "[dummy, null_blk]", order: "[dummy, kmm_dep]"}
	make := func(name string, change func(*scenario)) *scenario {
		s := swap
		s.name = name
		change(&s)
		return &s
	}
	return []*scenario{
		make("load", func(s *scenario) {
			s.toImage, s.to = fwImage, side{fwRuns, fwImage.firmware, nil}
			s.moduleName, s.remove, s.order = "kmm_fw", "[]", "[kmm_fw, kmm_dep]"
		}),
		make("swap", func(s *scenario) {
			s.from = side{runs: inTreeRuns}
			s.toImage, s.to = ourImage, side{ourRuns, newFirmware, both}
		}),
		make("swap that fails", func(s *scenario) {
			s.from, s.to = side{runs: inTreeRuns}, side{runs: inTreeRuns}
			s.toImage, s.fails = badImage, true
		}),
		make("upgrade", func(s *scenario) {
			s.fromImage, s.from = firstImage, side{firstRuns, oldFirmware, both}
			s.toImage, s.to = ourImage, side{ourRuns, newFirmware, both}
		}),
		make("upgrade that fails", func(s *scenario) {
			s.fromImage, s.from = firstImage, side{firstRuns, oldFirmware, both}
			s.toImage, s.to, s.fails = badImage, s.from, true
		}),
		make("unload", func(s *scenario) {
			s.fromImage, s.from = ourImage, side{ourRuns, newFirmware, both}
		}),
	}
}

// document is a Module; modprobe and remove are in YAML.
func document(name, modprobe, remove string, i *image) string {
	return fmt.Sprintf(`apiVersion: kmm.sigs.x-k8s.io/v1beta1
kind: Module
metadata: {name: %s}
spec:
  moduleLoader:
    container:
      modprobe: {%s}
      inTreeModulesToRemove: %s
      registryTLS: {insecure: true}
      kernelMappings: [{regexp: '^.+$', containerImage: "%s/test/%s:1"}]
`, name, modprobe, remove, registry.Address(), i.name)
}

// document is the Module of a scenario with an image.
func (s *scenario) document(i *image) string {
	modprobe := "moduleName: " + s.moduleName + ", firmwarePath: /firmware"
	if s.order != "" {
		modprobe += ", modulesLoadingOrder: " + s.order
	}
	if s.moduleName == "dummy" {
		modprobe += ", parameters: [numdummies=2]"
	}
	return document("driver", modprobe, s.remove, i)
}

const (
	documentFile  = documents + "/driver.yaml"
	neighbourFile = documents + "/neighbour.yaml"
)

// ask puts the document of an image in place; nil removes it.
func (s *scenario) ask(t *testing.T, i *image) {
	t.Helper()
	if i == nil {
		require.NoError(t, os.RemoveAll(documentFile))
		return
	}
	require.NoError(t, os.WriteFile(documentFile, []byte(s.document(i)), 0o644))
}

// begin brings the node to the state before the change, and asks for the change.
func (s *scenario) begin(t *testing.T) {
	t.Helper()
	if s.fromSnapshot == nil {
		dir, err := os.MkdirTemp("", "snapshot-")
		require.NoError(t, err)
		s.fromSnapshot = s.snapshot(t, dir)
	}
	s.fromSnapshot.restore(t)
	s.ask(t, s.toImage)
}

// snapshot makes the state before the change, as a kmmd that nothing disturbs
// does.
func (s *scenario) snapshot(t *testing.T, dir string) *snapshot {
	t.Helper()
	push(t)
	boot(t)
	if s.fromImage == nil && len(inTreeOf(s.from.runs)) == 0 {
		wipe(t)
	}
	s.ask(t, s.fromImage)
	if s.neighbour {
		require.NoError(t, os.WriteFile(neighbourFile, []byte(document("neighbour", "moduleName: kmm_base", "[]", baseImage)), 0o644))
	}
	require.Equal(t, 0, once(t))
	if s.toImage != nil && !s.pulls {
		s.ask(t, s.toImage)
		out, err := exec.Command(binary, "image", "pull").CombinedOutput()
		require.NoError(t, err, "%s", out)
		s.ask(t, s.fromImage)
	}
	require.NoError(t, look(t).Is(s.from.state(t)))
	return save(t, dir, s.from.runs)
}

// inTreeOf are the modules that the node has loaded itself.
func inTreeOf(runs []module) (out []module) {
	for _, m := range runs {
		if m.file == "" {
			out = append(out, m)
		}
	}
	return out
}

// boot is a node right after a boot, whose drivers are the kernel's own.
func boot(t *testing.T) {
	t.Helper()
	wipe(t)
	loadInTree(t)
}

func loadInTree(t *testing.T) {
	t.Helper()
	for _, m := range inTreeRuns {
		m.load(t)
		inTree[m.name] = look(t).Modules[m.name].BuildID
	}
}

// incompressible is what gzip makes no smaller, the same each time.
func incompressible(size int) string {
	b := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{}).Read(b) // never fails
	return string(b)
}

// pushed says that the registry has the images.
var pushed bool

func push(t *testing.T) {
	t.Helper()
	if pushed {
		return
	}
	for _, i := range []*image{firstImage, ourImage, badImage, fwImage, baseImage, soloImage} {
		content := map[string]string{}
		for _, f := range i.files {
			data, err := os.ReadFile(filepath.Join(modules, f))
			require.NoError(t, err)
			content["opt/lib/modules/"+release(t)+"/"+filepath.Base(f)] = string(data)
		}
		for path, body := range maps.All(i.firmware) {
			content["firmware/"+path] = body
		}
		imagestest.Push(t, os.Getenv("KMMD_VM_REGISTRY")+"/test/"+i.name+":1", imagestest.Layer(t, content))
	}
	pushed = true
}
