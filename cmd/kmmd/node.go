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
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kmm-node/kmmd/pkg/agent"
	"github.com/kmm-node/kmmd/pkg/devices"
	"github.com/kmm-node/kmmd/pkg/firmware"
	"github.com/kmm-node/kmmd/pkg/images"
	"github.com/kmm-node/kmmd/pkg/kernel"
	"github.com/kmm-node/kmmd/pkg/kmod"
	"github.com/kmm-node/kmmd/pkg/memory"
	"github.com/kmm-node/kmmd/pkg/preflight/gather"
	"github.com/kmm-node/kmmd/pkg/source/cluster"
	"github.com/kmm-node/kmmd/pkg/source/file"
	"github.com/kmm-node/kmmd/pkg/spec"
	"github.com/kmm-node/kmmd/pkg/systemd"
	"github.com/kmm-node/kmmd/pkg/version"
)

// node is everything wired together for one node.
type node struct {
	config  config
	host    *kernel.Host
	source  *file.Source
	cluster *cluster.Source // nil without a cluster
	agent   *agent.Agent
	log     *slog.Logger
	manager *systemd.Manager // nil when none waits for this process
	wrong   map[string]bool  // what was wrong with documents when they were read last

	giveBack *time.Timer // what was only needed to start, or for a change
}

// restAfter is how long after a look unused memory is given back, and after a garbage collection the program's own pages.
const restAfter = 10 * time.Second

func (c config) statusFile() string { return filepath.Join(c.RunDir, "status.json") }

// hostModules is the node's own /lib/modules.
func (c config) hostModules() string { return filepath.Join(c.HostRoot, "lib/modules") }

// devices is the node as pkg/devices sees it.
func (c config) devices() *devices.Host { return devices.Open(c.HostRoot, c.StateDir, c.FirmwareDir) }

// openNode wires a node. keep says whether images go to the store; without it
// they are kept in a directory that close removes. retry tries again what the
// kernel has refused before. registry gets the figures; it may be nil. The caller
// closes.
func openNode(o *options, registry prometheus.Registerer, keep, retry bool) (*node, func(), error) {
	c, err := readConfig(o.configFile)
	if err != nil {
		return nil, nil, err
	}
	if o.documents == "" {
		o.documents = c.ModulesDir
	}
	n := &node{config: c, log: newLog(), manager: o.manager}
	n.source = &file.Source{Path: o.documents, Status: c.statusFile()}
	if n.host, err = kernel.Open(c.HostRoot); err != nil {
		return nil, nil, err
	}
	fw, err := firmware.Open(c.FirmwareDir, filepath.Join(c.StateDir, "firmware.json"))
	if err != nil {
		return nil, nil, err
	}
	if err := fw.Lost(); err != nil {
		n.log.Warn("the manifest of firmware is unreadable and set aside: what was installed stays, and is nobody's", "err", err)
	}
	opts, err := c.imageOptions(n.log)
	if err != nil {
		return nil, nil, err
	}
	metrics, err := n.join(o, registry)
	if err != nil {
		return nil, nil, err
	}
	if keep {
		if err := n.makeDocuments(o); err != nil {
			return nil, nil, err
		}
	}
	opts.Progress = o.progress(n.log, metrics)
	opts.VerifiedFile, opts.BootID = filepath.Join(c.RunDir, "verified.json"), n.host.BootID()
	cfg := agent.Config{}
	closeImages, err := n.openImages(&cfg, opts, keep, o.offline)
	if err != nil {
		return nil, nil, err
	}
	previous, err := file.ReadStatus(c.statusFile())
	if err != nil && !isNotExist(err) {
		n.log.Warn("the last status is not readable", "err", err)
	}
	c.fill(&cfg)
	cfg.Previous, cfg.Retry, cfg.Kernel, cfg.Firmware = previous, retry, n.host, fw
	collector := gather.New(n.host, runtime.GOARCH, filepath.Join(c.RunDir, "symbols.json"))
	cfg.Devices, cfg.Preflight = c.devices(), collector
	cfg.Prepare = func(host *kmod.Tree) { n.prepare(collector, host) }
	cfg.Version, cfg.Log, cfg.Metrics = version.String(), n.log, metrics
	if keep {
		// Also what the last kmmd reported: others may not have heard of that.
		cfg.Report, cfg.Announce = n.report, n.cluster != nil || o.manager != nil
	}
	cfg.Facts = n.facts
	if n.cluster != nil {
		cfg.Secrets = secrets(n.cluster)
	}
	n.agent = agent.New(cfg)
	return n, func() {
		if n.giveBack != nil {
			n.giveBack.Stop()
		}
		closeImages()
		n.host.Close()
	}, nil
}

// join opens the node's place in the cluster, if it has one, and registers the
// figures.
func (n *node) join(o *options, registry prometheus.Registerer) (metrics *agent.Metrics, err error) {
	enabled, err := n.config.clusterEnabled(o)
	if err != nil {
		return nil, err
	}
	var ofCluster *cluster.Metrics
	if registry != nil {
		metrics = agent.NewMetrics(registry)
		if enabled {
			ofCluster = cluster.NewMetrics(registry)
		}
	}
	n.cluster, err = openCluster(n.config, o, ofCluster, n.log)
	return metrics, err
}

// prepare has at hand what the next load needs. What goes wrong is told by the load.
func (n *node) prepare(collector *gather.Collector, host *kmod.Tree) {
	if err := errors.Join(n.host.Prepare(), collector.Prepare(host)); err != nil {
		n.log.Debug("prepare for the next change", "err", err)
	}
	memory.Collect()
	if n.giveBack == nil {
		n.giveBack = time.AfterFunc(restAfter, memory.GiveBack)
		letGo := time.AfterFunc(restAfter, memory.LetGo)
		memory.AfterCollections(func() { letGo.Reset(restAfter) })
	}
	n.giveBack.Reset(restAfter)
}

// report tells all sides.
func (n *node) report(ctx context.Context, s spec.Status) error {
	errs := []error{n.source.Report(ctx, s), n.manager.Tell(systemd.Status(summary(s)))}
	if n.cluster != nil {
		errs = append(errs, n.cluster.Report(ctx, s))
	}
	return errors.Join(errs...)
}

func (n *node) facts() spec.Facts {
	s := n.host.SecurityWithoutKeys()
	return spec.Facts{SecureBoot: string(s.SecureBoot), Lockdown: s.Lockdown, SignatureEnforced: string(s.SigEnforce)}
}

// makeDocuments makes the directory of documents on a node of a cluster: without
// one it would be unknown what files ask for, and nothing could be unloaded.
func (n *node) makeDocuments(o *options) error {
	if n.cluster == nil || o.documents != n.config.ModulesDir {
		return nil
	}
	if err := os.MkdirAll(o.documents, 0o755); err != nil {
		return fmt.Errorf("make the directory of documents: %w", err)
	}
	return nil
}

// openImages opens the store, or without keep one that close removes.
func (n *node) openImages(cfg *agent.Config, opts images.Options, keep, asksNobody bool) (closeImages func(), err error) {
	if !keep {
		cfg.Images, closeImages, err = openPeek(n.log, n.config.imageDir(), opts, asksNobody)
		return closeImages, err
	}
	s, err := images.Open(n.config.imageDir(), opts)
	if err != nil {
		return nil, err
	}
	cfg.Images, cfg.Keeper = s, s
	if asksNobody {
		cfg.Images = offline{s}
	}
	return func() { logClose(n.log, s) }, nil
}

// fill copies what the configuration says.
func (c config) fill(cfg *agent.Config) {
	cfg.AllowNetwork, cfg.NetworkTimeout = slices.Contains(c.AllowInUse, spec.UseNetwork), c.NetworkTimeout.Duration
	cfg.ModulesDir, cfg.RunDir, cfg.FirmwareDir = c.hostModules(), c.RunDir, c.FirmwareDir
	cfg.LoadTimeout, cfg.UnloadTimeout, cfg.Resync = c.LoadTimeout.Duration, c.UnloadTimeout.Duration, c.Resync.Duration
	cfg.NeverLoad, cfg.NeverRemove = c.Policy.NeverLoad, c.Policy.NeverRemove
	cfg.DeclaredFirmware, cfg.Prestage, cfg.KeepUnused = c.Firmware == firmwareDeclared, c.Prestage, c.ImageKeepUnused.Duration
}

func newLog() *slog.Logger { return slog.New(slog.NewTextHandler(os.Stderr, nil)) }

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
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		return nil, &lockedError{path, strings.TrimSpace(string(holder))}
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
