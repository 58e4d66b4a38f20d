// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"path/filepath"
	"strings"
)

// scenario is something to be loaded.
type scenario struct {
	name  string
	title string
	files []string // without .ko, in the order in which they have to be loaded
	swap  string   // the in-tree module to be replaced by the last of files
}

func scenarios() []scenario {
	chain := scenario{name: "chain", title: "chain of 10"}
	for i := range 10 {
		chain.files = append(chain.files, fmt.Sprintf("kbn_%d", i))
	}
	return []scenario{
		{name: "small", title: "12 kB", files: []string{"kbn_small"}},
		{name: "1m", title: "1 MB", files: []string{"kbn_1m"}},
		{name: "50m", title: "50 MB", files: []string{"kbn_50m"}},
		chain,
		{name: "swap", title: "swap of dummy", files: []string{"dummy"}, swap: "dummy"},
	}
}

// module is the one that is asked for: the last to be loaded.
func (s scenario) module() string { return s.files[len(s.files)-1] }

// paths are the files below dir.
func (s scenario) paths(dir string) []string {
	var out []string
	for _, f := range s.files {
		out = append(out, filepath.Join(dir, f+".ko"))
	}
	return out
}

// image is its reference.
func (s scenario) image(registry string) string { return registry + "/bench/" + s.name + ":1" }

// document is what kmmd is given.
func (s scenario) document(registry string) string {
	extra := ""
	if s.swap != "" {
		extra = "\n      inTreeModulesToRemove: [" + s.swap + "]"
	}
	return fmt.Sprintf(`apiVersion: kmm.sigs.x-k8s.io/v1beta1
kind: Module
metadata:
  name: %s
spec:
  moduleLoader:
    container:
      modprobe: {moduleName: %s}%s
      registryTLS: {insecure: true}
      kernelMappings:
      - regexp: '^.+$'
        containerImage: %s
`, strings.ReplaceAll(s.name, "_", "-"), s.module(), extra, s.image(registry))
}
