// SPDX-License-Identifier: Apache-2.0

// Package build tests that images are really built and signed in a cluster: the
// Jobs that kmm-watcher makes are run, with buildah, against a real registry, and
// what comes of it is loaded by a node in a VM that boots with Secure Boot.
package build

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/kmm-node/kmmd/test/cluster/lab"
	"github.com/kmm-node/kmmd/test/cluster/machine"
	"github.com/kmm-node/kmmd/test/cluster/toolchain"
)

const (
	repository = "../../.."
	series     = "6.1" // of the kernel that images are made for
)

// What the tests share; see lab.Main.
var (
	cluster  *lab.Cluster
	registry *gate  // what Modules name
	base     string // an image with a compiler and the headers of release
	tiny     string // one with a shell and a module that is not signed
	locked   string // the same behind the gate
	release  string // a kernel of the lab
	hunter   string // the program of ./hunt
)

func TestMain(m *testing.M) {
	os.Exit(lab.Main(suite{m}, lab.Options{ControllerManager: true, Scheduler: true, Install: []string{"deploy/base"}}, &cluster))
}

// suite is all tests, with what they share around them.
type suite struct{ m *testing.M }

func (s suite) Run() int {
	if os.Geteuid() != 0 {
		fmt.Println("skip: containers are run as root only")
		return 0
	}
	dir, err := os.MkdirTemp("", "kmmd-build.")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	program, port, err := cluster.StartRegistry(context.Background(), "registry", dir)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer program.Kill()
	registry = newGate(port)
	defer registry.close()
	if err := prepare(dir, "127.0.0.1:"+port); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return s.m.Run()
}

// prepare makes the base images; host is the registry without its gate, open to
// all.
func prepare(dir, host string) (err error) {
	if release, err = machine.Kernel(series); err != nil {
		return err
	}
	hunter = filepath.Join(dir, "hunt")
	compile := exec.Command("go", "build", "-o", hunter, "./hunt")
	compile.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := compile.CombinedOutput(); err != nil {
		return fmt.Errorf("build hunt: %w: %s", err, out)
	}
	large, err := toolchain.Image(filepath.Join(repository, ".lab", release), release)
	if err != nil {
		return err
	}
	small, err := tinyImage()
	if err != nil {
		return err
	}
	base, tiny, locked = host+"/base:1", host+"/tiny:1", registry.host+"/tiny:1"
	for ref, image := range map[string]v1.Image{base: large, tiny: small} {
		tag, err := name.NewTag(ref, name.Insecure)
		if err == nil {
			err = remote.Write(tag, image)
		}
		if err != nil {
			return fmt.Errorf("push base image: %w", err)
		}
	}
	return nil
}
