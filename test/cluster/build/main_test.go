// SPDX-License-Identifier: Apache-2.0

// Package build tests that images are really built and signed in a cluster: the
// Jobs' own containers run, with buildah, against a real registry.
package build

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/kmm-node/kmmd/test/cluster/lab"
	"github.com/kmm-node/kmmd/test/cluster/toolchain"
)

const repository = "../../.."

// What the tests share; see lab.Main.
var (
	cluster  *lab.Cluster
	registry *gate  // what Modules name
	base     string // an image with a compiler and the headers of release
	release  string // a kernel of the lab
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
	end, err := s.prepare()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer end()
	return s.m.Run()
}

func (suite) prepare() (end func(), err error) {
	if release, err = newest("6.1"); err != nil {
		return nil, err
	}
	image, err := toolchain.Image(filepath.Join(repository, ".lab", release), release)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "kmmd-registry.")
	if err != nil {
		return nil, err
	}
	program, port, err := cluster.StartRegistry(context.Background(), "registry", dir)
	if err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	registry = newGate(port)
	end = func() {
		registry.close()
		program.Kill()
		os.RemoveAll(dir)
	}
	// Beside the gate: open to all.
	base = "127.0.0.1:" + port + "/base:1"
	ref, err := name.NewTag(base, name.Insecure)
	if err == nil {
		err = remote.Write(ref, image)
	}
	if err != nil {
		end()
		return nil, fmt.Errorf("push base image: %w", err)
	}
	return end, nil
}

// newest is the release of a series of kernels of the lab.
func newest(series string) (string, error) {
	data, err := os.ReadFile(filepath.Join(repository, ".lab", "kernels"))
	if err != nil {
		return "", fmt.Errorf("%w (run test/vm/setup)", err)
	}
	for line := range strings.Lines(string(data)) {
		if fields := strings.Fields(line); len(fields) == 2 && fields[0] == series {
			return fields[1], nil
		}
	}
	return "", fmt.Errorf("the lab has no kernel %s", series)
}
