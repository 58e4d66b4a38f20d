// SPDX-License-Identifier: Apache-2.0

// Command images makes the container images of kmmd and kmm-watcher: one index
// each, for every architecture there are programs for, as an OCI layout. An image
// is the static program on nothing but the certificates of public authorities: both
// programs ask registries. Everything in it comes from the programs and from go.mod,
// so that the same commit gives the same digest.
//
// What a program was built from is in it; the bill of materials (SPDX) is made of
// that. It lies beside the layout, and is attached to the image that is pushed.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/authn"
)

// images are what is made. Users are numbers: there is no /etc/passwd, and
// runAsNonRoot asks for one.
var images = []image{
	{
		name: "kmmd", user: "0:0",
		title: "kmmd", description: "Puts out-of-tree kernel modules into the kernel of the node it runs on",
	},
	{
		name: "kmm-watcher", user: "65532:65532",
		title: "kmm-watcher", description: "The cluster side of kmmd: hands Modules out to nodes and tells what became of them",
	},
}

func main() {
	programs := flag.String("programs", "", "directory with ARCH/kmmd and ARCH/kmm-watcher")
	out := flag.String("out", "", "directory for the layouts NAME/ and the bills of materials NAME.linux-ARCH.spdx.json")
	push := flag.String("push", "", "also push to NAME:VERSION below this repository, such as registry.example/kmm")
	insecure := flag.Bool("insecure", false, "push by plain HTTP")
	flag.Parse()
	if err := run(*programs, *out, *push, *insecure); err != nil {
		fmt.Fprintln(os.Stderr, "images:", err)
		os.Exit(1)
	}
}

func run(programs, out, push string, insecure bool) error {
	if err := os.MkdirAll(out, 0o755); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	for _, i := range images {
		files, err := filepath.Glob(filepath.Join(programs, "*", i.name))
		if err != nil || len(files) == 0 {
			return fmt.Errorf("no %s/ARCH/%s: build it first", programs, i.name)
		}
		made, err := i.make(files)
		if err != nil {
			return fmt.Errorf("image %s: %w", i.name, err)
		}
		if err := made.write(out); err != nil {
			return fmt.Errorf("image %s: %w", i.name, err)
		}
		digest, err := made.index.Digest()
		if err != nil {
			return fmt.Errorf("image %s: %w", i.name, err)
		}
		fmt.Println(i.name, made.tag, digest)
		if push == "" {
			continue
		}
		ref, err := made.push(push, insecure, authn.DefaultKeychain)
		if err != nil {
			return err
		}
		fmt.Println("pushed", ref)
	}
	return nil
}
