// SPDX-License-Identifier: Apache-2.0

// Package hello makes the image of docs/quickstart/bare-node.md, by the commands of
// that page, for a kernel of the lab. Root only, since containers are run. Tests
// only.
package hello

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/kmm-node/kmmd/test/docs"
)

const (
	page = "docs/quickstart/bare-node.md"
	lab  = "build"
	// patience is for a builder, on a machine that does other things, too.
	patience = 10 * time.Minute
)

// sources are, beside the page, what the result depends on.
var sources = []string{page, "test/docs/hello/hello.go", "test/docs/hello/debian.go", "test/cluster/toolchain/toolchain.go"}

// Dir returns the directory hello that the page makes for a kernel release of the
// lab: sources, and an OCI layout, image. It is kept in .lab until the page changes.
// Several may ask at once; root leads to the repository.
func Dir(root, release string) (dir string, err error) {
	if root, err = filepath.Abs(root); err != nil {
		return "", fmt.Errorf("make the image of %s: %w", page, err)
	}
	top := filepath.Join(root, ".lab", "docs", release)
	if err := made(root, top, release); err != nil {
		return "", fmt.Errorf("make the image of %s for %s: %w", page, release, err)
	}
	return filepath.Join(top, "hello"), nil
}

func made(root, top, release string) error {
	id, err := identify(root)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(top), 0o755); err != nil {
		return err
	}
	lock, err := os.Create(top + ".lock")
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return err
	}
	stamp := top + ".made"
	if old, err := os.ReadFile(stamp); err == nil && string(old) == id {
		return nil
	}
	if err := build(root, top, release); err != nil {
		return err
	}
	return os.WriteFile(stamp, []byte(id), 0o644)
}

// identify gives one hash of all sources.
func identify(root string) (string, error) {
	h := sha256.New()
	for _, name := range sources {
		data, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			return "", err
		}
		fmt.Fprintf(h, "%s %d\n%s", name, len(data), data)
	}
	return fmt.Sprintf("%x", h.Sum(nil)), nil
}

// build does what the page says, on a machine whose kernel is said to be the
// release, with an empty store of containers.
func build(root, top, release string) error {
	if err := os.RemoveAll(top); err != nil {
		return err
	}
	if err := os.Mkdir(top, 0o755); err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "kmmd-hello.")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	hub, err := newHub(filepath.Join(root, ".lab", release), release)
	if err != nil {
		return err
	}
	defer hub.Close()
	env, err := environment(work, release, hub.Listener.Addr().String())
	if err != nil {
		return err
	}
	p, err := docs.Read(root, page)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return p.Do(ctx, lab, top, env...)
}
