// SPDX-License-Identifier: Apache-2.0

package soak

import (
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/images/imagestest"
)

// library is what the registry has.
type library struct {
	release string
	tags    map[string]image // what each tag stands for now
	unknown map[string]bool  // tags that kmmd's store does not know any more
	count   int
}

func newLibrary(release string) *library {
	return &library{release: release, tags: map[string]image{}, unknown: map[string]bool{}}
}

// id is what tells one build of a module from another.
func id(module string, build int) []byte {
	sum := sha1.Sum(fmt.Appendf(nil, "%s %d", module, build))
	return sum[:]
}

func buildID(module string, build int) string { return hex.EncodeToString(id(module, build)) }

// fresh is a tag nobody has used.
func (l *library) fresh(of *what) string {
	l.count++
	return fmt.Sprintf("%s/soak/%s:%d", os.Getenv("KMMD_VM_REGISTRY"), of.name, l.count)
}

// peek is the image that a document gets which is new to kmmd and says IfNotPresent: the one it had, or what the tag stands for
// now, when the store does not know the tag.
func (l *library) peek(set setup) image {
	if l.unknown[set.tag] {
		return l.tags[set.tag]
	}
	return set.image
}

// asked is peek, and the store knows the tag then.
func (l *library) asked(set setup) image {
	defer delete(l.unknown, set.tag)
	return l.peek(set)
}

// push has a tag stand for an image; of a flawed one for what is wrong.
func (l *library) push(s *soak, of *what, set setup) {
	s.Helper()
	l.tags[set.tag] = set.image
	dir := "opt/lib/modules/" + l.release + "/"
	files := map[string]string{}
	file := of.module + ".ko"
	switch {
	case set.flaw.name == "image":
		return
	case set.flaw.name == "empty":
		dir = "opt/lib/modules/1.2.3/"
	case set.flaw.file != "":
		file = set.flaw.file
	}
	files[dir+filepath.Base(file)] = string(withBuildID(s, file, id(of.module, set.image.build)))
	if set.image.base > 0 && of.name != "base" {
		files[dir+"kmm_base.ko"] = string(withBuildID(s, "kmm_base.ko", id("kmm_base", set.image.base)))
	}
	layers := []*imagestest.Blob{imagestest.Compress(s, imagestest.Tar(s, imagestest.Files(files)...), l.compression())}
	if len(set.image.firmware) > 0 {
		files = map[string]string{}
		for _, f := range set.image.firmware {
			files["firmware/"+f] = set.image.content(f)
		}
		layers = append(layers, imagestest.Layer(s, files))
	}
	imagestest.Push(s, set.tag, layers...)
}

// compression takes turns.
func (l *library) compression() string {
	return []string{imagestest.Gzip, imagestest.Zstd, imagestest.None}[l.count%3]
}

// write puts a document into the directory, by another name first; as TOML, or
// as JSON, which is YAML too.
func (s *soak) write(of *what, file string, set setup) {
	s.Helper()
	release := "^.+$"
	if set.flaw.name == "mapping" {
		release = "^2\\."
	}
	modprobe := map[string]any{"moduleName": of.module}
	if len(set.parameters) > 0 {
		modprobe["parameters"] = set.parameters
	}
	if set.firmware {
		modprobe["firmwarePath"] = "/firmware"
	}
	container := map[string]any{
		"modprobe":        modprobe,
		"version":         fmt.Sprint(set.version),
		"imagePullPolicy": map[bool]string{true: "Always", false: "IfNotPresent"}[set.always],
		"registryTLS":     map[string]any{"insecure": true},
		"kernelMappings":  []any{map[string]any{"regexp": release, "containerImage": set.tag}},
	}
	if len(set.remove) > 0 {
		container["inTreeModulesToRemove"] = set.remove
	}
	document := map[string]any{
		"apiVersion": "kmm.sigs.x-k8s.io/v1beta1", "kind": "Module", "metadata": map[string]any{"name": of.name},
		"spec": map[string]any{"moduleLoader": map[string]any{"container": container}},
	}
	marshal := json.Marshal
	if strings.HasSuffix(file, ".toml") {
		marshal = toml.Marshal
	}
	data, err := marshal(document)
	require.NoError(s, err)
	s.put(file, string(data))
}

// put writes a file of the directory of documents in one step.
func (s *soak) put(file, content string) {
	s.Helper()
	path := s.host.path("docs", file)
	require.NoError(s, os.WriteFile(path+"~", []byte(content), 0o644))
	require.NoError(s, os.Rename(path+"~", path))
}

func (s *soak) remove(file string) {
	s.Helper()
	require.NoError(s, os.Remove(s.host.path("docs", file)))
}
