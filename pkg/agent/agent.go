// SPDX-License-Identifier: Apache-2.0

// Package agent makes the kernel of one node run what the node is asked for.
// It resolves Modules to files, observes the kernel, plans, applies the plan
// and reports; five verbs, one file each. It is the only writer of kernel and
// firmware, does so from one goroutine, and does not know where its orders
// come from.
package agent

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kmm-node/kmmd/pkg/firmware"
	"github.com/kmm-node/kmmd/pkg/images"
	"github.com/kmm-node/kmmd/pkg/kernel"
	"github.com/kmm-node/kmmd/pkg/kmod"
	"github.com/kmm-node/kmmd/pkg/plan"
	"github.com/kmm-node/kmmd/pkg/spec"
)

// Kernel is what the agent needs of the running kernel: *kernel.Host, or the
// in-memory one of kerneltest, which obeys the same contract test.
type Kernel interface {
	Observer
	Loader
	Writer
	Host
}

// Observer reads.
type Observer interface {
	Release() string
	BootID() string
	Cmdline() string
	Modules(closer ...string) ([]kernel.Module, error)
	Module(name string) (kernel.Module, error)
	Running(name string) (state, buildID string, err error)
}

// Loader changes which modules run.
type Loader interface {
	Compression() string
	Load(ctx context.Context, r kernel.LoadRequest) error
	LoadAll(ctx context.Context, requests []kernel.LoadRequest) []kernel.Loaded
	Unload(ctx context.Context, name string, timeout time.Duration) error
}

// Writer has drivers take and leave devices.
type Writer interface {
	Write(ctx context.Context, r kernel.WriteRequest) error
	Hanging(device string) error
}

// Host is what decides on firmware and automatic loading.
type Host interface {
	FirmwarePath() (string, error)
	SetFirmwarePath(path string) error
	HoldAutoload(names []string) error
	Held() ([]string, error)
}

// Images finds the files of an image: *images.Store, or one that keeps nothing.
type Images interface {
	Ensure(ctx context.Context, r images.Request) (*images.Tree, error)
	// Verified opens a file of it that need not be verified again: see images.Store.
	Verified(path string) (f *os.File, done func(), ok bool)
}

// Config is everything an Agent works with. Kernel, Images, Firmware,
// ModulesDir, RunDir, FirmwareDir and Log are required.
type Config struct {
	Kernel   Kernel
	Images   Images
	Firmware *firmware.Dir
	// Keeper is told which images are needed, and to remove what nothing has used
	// for KeepUnused; nil keeps all.
	Keeper     Keeper
	KeepUnused time.Duration
	// Devices tells what hangs on a module, and Preflight what the kernel will
	// say to a file. Without them nobody looks; for tests.
	Devices   Devices
	Preflight Preflight
	// AllowNetwork lets drivers of interfaces in use be replaced for every
	// Module of this node.
	AllowNetwork bool
	// NeverLoad and NeverRemove name modules that the node's own policy keeps out
	// of the kernel, and in it; - and _ are alike.
	NeverLoad, NeverRemove []string
	// NetworkTimeout is how long interfaces may take to come back; 0 is 30 s.
	NetworkTimeout time.Duration
	// ModulesDir is the node's /lib/modules.
	ModulesDir string
	// RunDir holds the ledger; it must not outlive a boot.
	RunDir string
	// FirmwareDir is the firmware directory as the kernel sees it.
	FirmwareDir string
	// LoadTimeout and UnloadTimeout bound one system call, also one that gives
	// a device to a driver or takes it away; 0 is the kernel package's default.
	LoadTimeout, UnloadTimeout time.Duration
	// Resync is how often everything is looked at without a hint; 0 is 5 minutes.
	Resync time.Duration
	// DeclaredFirmware takes the firmware that the modules declare for all there
	// is (images.Request.DeclaredFirmware).
	DeclaredFirmware bool
	// Prestage has Run get the images for kernels that are installed, but do not
	// run.
	Prestage bool
	// Previous is the last status that was reported, for how long a state has
	// lasted. The one of another boot is ignored.
	Previous spec.Status
	// Retry tries again what the kernel has refused in this boot.
	Retry bool
	// Secrets gives the image pull secrets of a Module, by their names and its
	// namespace. It is called when a registry is about to be asked. nil: there are
	// none to be had.
	Secrets func(ctx context.Context, namespace string, names []string) []images.PullSecret
	// Facts are reported with each status; they are asked for at most once a
	// minute. nil reports none.
	Facts func() spec.Facts
	// Version is reported as kmmd's.
	Version string
	Log     *slog.Logger
	// Metrics may be nil.
	Metrics *Metrics
	// Report is told the status when it changed; it may be nil.
	Report func(context.Context, spec.Status) error
	// Announce has Report told the first status also when it equals Previous: for
	// a Report that may not have passed that on.
	Announce bool
	// Prepare is called by Run when there is nothing to do, before the first change
	// and after each: what the next one needs may be read ahead. It gets the node's
	// own modules, nil when there are none. It may be nil.
	Prepare func(host *kmod.Tree)
	// AfterStep is called after each step of a plan or of a rollback, before
	// the ledger says that it is done; tests kill the process there. It may
	// be nil.
	AfterStep func()
}

// Agent reconciles one node. Make it with New; SetDesired and Trigger may be
// called by any goroutine, the other methods by one at a time.
type Agent struct {
	cfg     Config
	trigger chan struct{}
	began   time.Time    // of the last look
	busy    atomic.Int64 // start of the running reconcile, Unix nanoseconds, 0 when idle
	done    atomic.Bool  // a first reconcile has been finished, with all images or why not

	prestage chan struct{} // the wish changed

	pulling sync.WaitGroup // goroutines of pulls
	pinning sync.WaitGroup // goroutines that write pins

	mu      sync.Mutex // guards the three below
	desired *spec.Node
	staged  []spec.StagedModule
	pinned  map[string][]string // what Keeper was told, by owner

	// Of the reconciling goroutine only.
	ledger   *ledger
	host     *kmod.Tree // the node's own modules, nil when there are none
	looked   bool       // for them
	toPin    []toPin    // for writePins
	magic    string     // the running kernel's vermagic without release, "" while unknown
	resolved map[string]*resolution
	pulls    map[string]*pull // by Module
	failures map[string]*failure
	undoing  undoing           // of what is left in the journal
	refused  map[string]string // message of each order that is not obeyed
	status   spec.Status
	facts    spec.Facts
	asked    time.Time // when facts were read
	pruned   time.Time // when Keeper was asked to last
	swept    bool      // pins of an earlier kmmd are in pinned

	unreported bool // Report does not know status

	loaded map[string]attempt  // by name: loads that were made ahead of their step
	aside  map[string]*os.File // by path: copies of what a rollback loads again

	seen *view // what the node is like; nil when something was changed since

	met   map[string]*plan.Want // what each Module that was as wanted last wanted
	drift map[string]bool       // Modules that somebody else has changed since; nil before they are looked for
}

// New reads the ledger of this boot.
func New(cfg Config) *Agent {
	if cfg.Resync == 0 {
		cfg.Resync = 5 * time.Minute
	}
	a := &Agent{
		cfg: cfg, trigger: make(chan struct{}, 1), prestage: make(chan struct{}, 1),
		resolved: map[string]*resolution{}, pulls: map[string]*pull{}, failures: map[string]*failure{}, pinned: map[string][]string{},
		unreported: cfg.Announce, met: map[string]*plan.Want{}, undoing: undoing{why: map[string]error{}, missing: map[string]bool{}},
	}
	if cfg.Keeper != nil {
		cfg.Metrics.store(cfg.Keeper.Usage)
	}
	led, err := openLedger(cfg.RunDir, cfg.Kernel.BootID())
	if err != nil {
		cfg.Log.Warn("ledger is unreadable and set aside: modules are adopted by their build-id", "err", err)
	}
	a.ledger = led
	// To find out how JSON has these types takes as long as half of a load: now, and not when the first document comes.
	for _, v := range []any{spec.Module{}.Spec, plan.Want{}, led} {
		hashOf(v)
	}
	if cfg.Retry {
		clear(a.ledger.Failures)
	}
	a.recall()
	if cfg.Previous.BootID == cfg.Kernel.BootID() {
		a.status = cfg.Previous
	}
	return a
}

// SetDesired replaces what the node is asked for and wakes Run.
func (a *Agent) SetDesired(n spec.Node) {
	a.mu.Lock()
	a.desired = &n
	a.mu.Unlock()
	a.Trigger()
}

// Trigger wakes Run to look at everything again. It never blocks, and losing
// or doubling a call is harmless.
func (a *Agent) Trigger() { poke(a.trigger) }

func poke(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// Run reconciles whenever it is triggered, when a retry is due and every
// Resync, until ctx is done. A transaction that has begun is finished first.
// It needs what Reconcile needs.
func (a *Agent) Run(ctx context.Context) error {
	if a.cfg.Prestage {
		var stager sync.WaitGroup
		defer stager.Wait()
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		stager.Go(func() { a.keepStaged(ctx) })
	}
	defer a.pinning.Wait()
	defer a.pulling.Wait()
	timer := time.NewTimer(a.cfg.Resync)
	defer timer.Stop()
	var staged *spec.Node // what Prestage has been asked for
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.trigger:
		case <-timer.C:
		}
		desired := a.snapshot()
		if desired == nil {
			continue // nobody has said yet what is wanted
		}
		if _, err := a.look(ctx); err != nil && ctx.Err() == nil {
			a.cfg.Log.Error("reconcile", "err", err)
		}
		if staged != desired {
			staged = desired
			poke(a.prestage)
		}
		timer.Reset(a.nextLook())
		a.prepare()
	}
}

// prepare reads ahead what the next change will need, unless it is there already.
func (a *Agent) prepare() {
	if a.cfg.Prepare == nil || len(a.trigger) > 0 {
		return
	}
	if a.host != nil || !a.looked { // where there is none, that is told once
		a.openHost()
	}
	a.cfg.Prepare(a.host)
}

// Live reports an error when one reconcile has taken longer than limit: the
// process is stuck and should be replaced.
func (a *Agent) Live(limit time.Duration) error {
	start := a.busy.Load()
	if start == 0 {
		return nil
	}
	if d := time.Since(time.Unix(0, start)); d > limit {
		return fmt.Errorf("reconcile has been running for %s", d.Round(time.Second))
	}
	return nil
}

// Ready reports whether the first reconcile has been finished.
func (a *Agent) Ready() bool { return a.done.Load() }

func (a *Agent) snapshot() *spec.Node {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.desired
}
