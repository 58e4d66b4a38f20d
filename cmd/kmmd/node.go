// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/kmm-node/kmmd/pkg/agent"
	"github.com/kmm-node/kmmd/pkg/devices"
	"github.com/kmm-node/kmmd/pkg/firmware"
	"github.com/kmm-node/kmmd/pkg/images"
	"github.com/kmm-node/kmmd/pkg/kernel"
	"github.com/kmm-node/kmmd/pkg/preflight/gather"
	"github.com/kmm-node/kmmd/pkg/source/file"
	"github.com/kmm-node/kmmd/pkg/spec"
)

// node is everything wired together for one node.
type node struct {
	config config
	host   *kernel.Host
	source *file.Source
	agent  *agent.Agent
	log    *slog.Logger
}

func (c config) statusFile() string { return filepath.Join(c.RunDir, "status.json") }

// hostModules is the node's own /lib/modules.
func (c config) hostModules() string { return filepath.Join(c.HostRoot, "lib/modules") }

// openNode wires a node. keep says whether images go to the store; without it
// they are kept in a directory that close removes. retry tries again what the
// kernel has refused before. The caller closes.
func openNode(o *options, metrics *agent.Metrics, keep, retry bool) (*node, func(), error) {
	c, err := readConfig(o.configFile)
	if err != nil {
		return nil, nil, err
	}
	if o.documents == "" {
		o.documents = c.ModulesDir
	}
	n := &node{config: c, log: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	n.source = &file.Source{Path: o.documents, Status: c.statusFile()}
	if n.host, err = kernel.Open(c.HostRoot); err != nil {
		return nil, nil, err
	}
	fw, err := firmware.Open(c.FirmwareDir, filepath.Join(c.StateDir, "firmware.json"))
	if err != nil {
		return nil, nil, err
	}
	pull, closeImages, err := n.openImages(keep)
	if err != nil {
		return nil, nil, err
	}
	previous, err := file.ReadStatus(c.statusFile())
	if err != nil && !isNotExist(err) {
		n.log.Warn("the last status is not readable", "err", err)
	}
	cfg := agent.Config{
		Previous: previous, Retry: retry,
		Kernel: n.host, Devices: devices.Open(c.HostRoot), Preflight: gather.New(n.host, runtime.GOARCH),
		AllowNetwork: slices.Contains(c.AllowInUse, spec.UseNetwork), NetworkTimeout: c.NetworkTimeout.Duration,
		Images: pull, Firmware: fw, ModulesDir: c.hostModules(), RunDir: c.RunDir, FirmwareDir: c.FirmwareDir,
		LoadTimeout: c.LoadTimeout.Duration, UnloadTimeout: c.UnloadTimeout.Duration, Resync: c.Resync.Duration,
		Version: version(), Log: n.log, Metrics: metrics, AfterStep: afterStep(),
	}
	if keep {
		cfg.Report = n.source.Report
	}
	n.agent = agent.New(cfg)
	return n, closeImages, nil
}

func (n *node) openImages(keep bool) (agent.Images, func(), error) {
	dir := filepath.Join(n.config.StateDir, "images")
	if keep {
		s, err := images.Open(dir, images.Options{})
		if err != nil {
			return nil, nil, err
		}
		return s, func() { logClose(n.log, s) }, nil
	}
	return openPeek(n.log, dir)
}

func logClose(log *slog.Logger, s *images.Store) {
	if err := s.Close(); err != nil {
		log.Error("close image store", "err", err)
	}
}

// peek looks at images without leaving anything behind: what the store has is
// used, the rest is pulled into a directory of its own.
type peek struct{ have, scratch *images.Store }

func openPeek(log *slog.Logger, dir string) (*peek, func(), error) {
	var p peek
	var err error
	if _, statErr := os.Stat(dir); statErr == nil {
		if p.have, err = images.Open(dir, images.Options{}); err != nil {
			return nil, nil, err
		}
	}
	tmp, err := os.MkdirTemp("", "kmmd-plan-")
	if err != nil {
		return nil, nil, fmt.Errorf("make scratch directory: %w", err)
	}
	if p.scratch, err = images.Open(tmp, images.Options{}); err != nil {
		return nil, nil, err
	}
	return &p, func() {
		if p.have != nil {
			logClose(log, p.have)
		}
		logClose(log, p.scratch)
		if err := os.RemoveAll(tmp); err != nil {
			log.Error("remove scratch directory", "err", err)
		}
	}, nil
}

// Ensure implements agent.Images.
func (p *peek) Ensure(ctx context.Context, r images.Request) (*images.Tree, error) {
	if p.have != nil && r.PullPolicy != images.PullAlways {
		cached := r
		cached.PullPolicy = images.PullNever
		t, err := p.have.Ensure(ctx, cached)
		if !errors.Is(err, images.ErrNotCached) || r.PullPolicy == images.PullNever {
			return t, err
		}
	}
	return p.scratch.Ensure(ctx, r)
}

// lock makes sure that one kmmd at a time changes this node. The lock is
// released when the process ends, however it ends.
func lock(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make run directory: %w", err)
	}
	path := filepath.Join(dir, "lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		holder, _ := os.ReadFile(path)
		_ = f.Close()
		return nil, fmt.Errorf("lock %s: another kmmd (pid %s) looks after this node: stop it first, or put the document into its directory", path, strings.TrimSpace(string(holder)))
	}
	err = errors.Join(f.Truncate(0), func() error {
		_, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
		return err
	}())
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return f, nil
}

// version is the module version the binary was built from, with the commit.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	v := info.Main.Version
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && v == "(devel)" {
			v += " " + s.Value
		}
	}
	return v
}
