// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/agent"
	"github.com/kmm-node/kmmd/pkg/firmware"
	"github.com/kmm-node/kmmd/pkg/images"
	"github.com/kmm-node/kmmd/pkg/images/imagestest"
	"github.com/kmm-node/kmmd/pkg/kernel"
	"github.com/kmm-node/kmmd/pkg/kernel/kerneltest"
	"github.com/kmm-node/kmmd/pkg/kmod"
	"github.com/kmm-node/kmmd/pkg/kmod/kmodtest"
	"github.com/kmm-node/kmmd/pkg/spec"
)

var (
	_ agent.Kernel = (*kernel.Host)(nil)
	_ agent.Kernel = (*kerneltest.Kernel)(nil)
	_ agent.Images = (*images.Store)(nil)
)

const release = "6.1.0-56-cloud-amd64"

// node is a machine in memory and in a temporary directory. It outlives the
// agents that a test starts on it, as a machine outlives a daemon.
type node struct {
	*kerneltest.Kernel
	t        testing.TB
	dir      string
	images   *stock
	registry *imagestest.Registry
	telling  sync.Mutex // guards reports while an agent runs
	reports  []spec.Status
	log      strings.Builder
	agent    *agent.Agent // the one started last
}

// stock is an image store that can be told to fail.
type stock struct {
	store *images.Store
	mu    sync.Mutex       // guards what follows
	errs  map[string]error // by reference
	hangs map[string]bool  // until the caller gives up
	late  map[string]time.Duration
	asked []time.Time
}

// fail makes a reference one that can not be had; nil makes it good again.
func (s *stock) fail(ref string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.errs[ref] = err
}

// hang makes a reference one that never comes, or no more so.
func (s *stock) hang(ref string, yes bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hangs[ref] = yes
}

// delay makes a reference come late.
func (s *stock) delay(ref string, d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.late[ref] = d
}

func (s *stock) Ensure(ctx context.Context, r images.Request) (*images.Tree, error) {
	s.mu.Lock()
	s.asked = append(s.asked, time.Now())
	ref := r.Ref
	if r.Digest != "" {
		ref += " " + r.Digest
	}
	err, hangs, late := s.errs[ref], s.hangs[ref], s.late[ref]
	s.mu.Unlock()
	if late > 0 {
		<-time.After(late)
	}
	if hangs {
		<-ctx.Done()
		err = ctx.Err()
	}
	if err != nil {
		return nil, fmt.Errorf("pull %s: %w", r.Ref, err)
	}
	return s.store.Ensure(ctx, r)
}

func (s *stock) Verified(path string) (*os.File, func(), bool) { return s.store.Verified(path) }

// newNode is a node whose kernel comes with dummy, and null_blk, and user which
// uses core. None of them runs.
func newNode(t testing.TB) *node {
	t.Helper()
	n := &node{Kernel: kerneltest.New(release), t: t, dir: t.TempDir(), registry: imagestest.NewRegistry(t)}
	inTree := func(s kmodtest.Spec) kmodtest.Spec {
		s.InTree, s.Vermagic = true, kerneltest.Vermagic(release)
		return s
	}
	kmodtest.WriteTree(t, n.path("host/lib/modules", release, "kernel"), map[string]kmodtest.Spec{
		"dummy.ko":    inTree(kmodtest.Spec{Params: []kmodtest.Param{{Name: "numdummies", Type: "int"}}}),
		"null_blk.ko": inTree(kmodtest.Spec{Params: []kmodtest.Param{{Name: "nr_devices", Type: "uint"}}}),
		"core.ko":     inTree(kmodtest.Spec{Exports: []string{"core_symbol"}}),
		"user.ko":     inTree(kmodtest.Spec{Depends: []string{"core"}, Imports: []string{"core_symbol"}}),
	})
	store, err := images.Open(n.path("images"), images.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, store.Close()) })
	n.images = &stock{store: store, errs: map[string]error{}, hangs: map[string]bool{}, late: map[string]time.Duration{}}
	require.NoError(t, os.Mkdir(n.path("run"), 0o755))
	return n
}

func (n *node) path(elem ...string) string {
	return filepath.Join(append([]string{n.dir}, elem...)...)
}

// inTree is the path of the node's own module.
func (n *node) inTree(name string) string {
	return n.path("host/lib/modules", release, "kernel", name+".ko")
}

// ours are module files as images have them: dummy, helper, and top that uses
// middle that uses base. version makes them different builds.
func ours(version string) map[string]kmodtest.Spec {
	magic := kerneltest.Vermagic(release)
	spec := func(s kmodtest.Spec) kmodtest.Spec {
		s.Vermagic, s.Version = magic, version
		return s
	}
	return map[string]kmodtest.Spec{
		"dummy.ko":    spec(kmodtest.Spec{Params: []kmodtest.Param{{Name: "numdummies", Type: "int"}, {Name: "build", Type: "charp"}}}),
		"helper.ko":   spec(kmodtest.Spec{}),
		"base.ko":     spec(kmodtest.Spec{Exports: []string{"base_symbol"}, Params: []kmodtest.Param{{Name: "level", Type: "int"}}}),
		"middle.ko":   spec(kmodtest.Spec{Depends: []string{"base"}, Imports: []string{"base_symbol"}, Exports: []string{"middle_symbol"}}),
		"top.ko":      spec(kmodtest.Spec{Depends: []string{"middle"}, Imports: []string{"middle_symbol"}}),
		"side.ko":     spec(kmodtest.Spec{Depends: []string{"base"}, Imports: []string{"base_symbol"}}),
		"hostuser.ko": spec(kmodtest.Spec{Depends: []string{"core"}, Imports: []string{"core_symbol"}}),
	}
}

// only are some of the files.
func only(files map[string]kmodtest.Spec, names ...string) map[string]kmodtest.Spec {
	out := maps.Clone(files)
	maps.DeleteFunc(out, func(path string, _ kmodtest.Spec) bool { return !slices.Contains(names, kmod.Name(path)) })
	return out
}

// image pushes an image with modules and firmware and gives its reference. It
// is in the store at once: what a test does later needs no network.
func (n *node) image(tag string, modules map[string]kmodtest.Spec, fw map[string]string) string {
	n.t.Helper()
	return n.have(n.push(tag, modules, fw), len(fw) > 0)
}

// imageOf is image with any files.
func (n *node) imageOf(tag string, files map[string]string) string {
	n.t.Helper()
	ref := n.registry.Host + "/modules:" + tag
	imagestest.Push(n.t, ref, imagestest.Layer(n.t, files))
	return n.have(ref, false)
}

// have pulls an image into the store.
func (n *node) have(ref string, withFirmware bool) string {
	n.t.Helper()
	request := images.Request{Ref: ref, Releases: spec.Release(release).Directories(), Insecure: true}
	_, err := n.images.store.Ensure(n.t.Context(), request)
	require.NoError(n.t, err)
	if withFirmware {
		request.FirmwarePath = "/firmware"
		_, err = n.images.store.Ensure(n.t.Context(), request)
		require.NoError(n.t, err)
	}
	return ref
}

// push is image without having it in the store.
func (n *node) push(tag string, modules map[string]kmodtest.Spec, fw map[string]string) string {
	n.t.Helper()
	files := map[string]string{"opt/lib/modules/" + release + "/.keep": ""}
	for path, s := range modules {
		s.Name = kmod.Name(path)
		files["opt/lib/modules/"+release+"/"+path] = string(kmodtest.Build(s))
	}
	for path, content := range fw {
		files["firmware/"+path] = content
	}
	ref := n.registry.Host + "/modules:" + tag
	imagestest.Push(n.t, ref, imagestest.Layer(n.t, files))
	return ref
}

// want is a Module in a test's words.
type want struct {
	name       string // "nic" is default/nic
	image      string
	module     string
	remove     []string
	parameters []string
	order      []string
	firmware   string
	version    string
	load       []string // modprobe.args.load
	pull       string
}

func (w want) document() spec.Module {
	c := spec.Container{
		ContainerImage: w.image, ImagePullPolicy: w.pull, Version: w.version,
		RegistryTLS:    &spec.RegistryTLS{Insecure: true},
		KernelMappings: []spec.KernelMapping{{Regexp: "^6"}},
		Modprobe: spec.Modprobe{
			ModuleName: w.module, Parameters: w.parameters, ModulesLoadingOrder: w.order, FirmwarePath: w.firmware,
		},
		InTreeModulesToRemove: w.remove,
	}
	if w.load != nil {
		c.Modprobe.Args = &spec.Args{Load: w.load}
	}
	return spec.Module{
		APIVersion: spec.APIVersion, Kind: spec.Kind,
		Metadata: spec.Metadata{Name: w.name, Namespace: spec.DefaultNamespace},
		Spec:     spec.ModuleSpec{ModuleLoader: &spec.ModuleLoader{Container: c}},
	}
}

func documents(wants ...want) spec.Node {
	var out spec.Node
	for _, w := range wants {
		out.Modules = append(out.Modules, w.document())
	}
	return out
}

// config is what an agent on this node is started with.
func (n *node) config() agent.Config {
	n.t.Helper()
	fw, err := firmware.Open(n.path("firmware"), n.path("firmware.json"))
	require.NoError(n.t, err)
	return agent.Config{
		Kernel: n.Kernel, Images: n.images, Firmware: fw, ModulesDir: n.path("host/lib/modules"), RunDir: n.path("run"),
		FirmwareDir: n.path("firmware"), Version: "v1", Log: slog.New(slog.NewTextHandler(io.MultiWriter(&n.log, n.t.Output()), nil)),
		Report: func(_ context.Context, s spec.Status) error {
			n.telling.Lock()
			defer n.telling.Unlock()
			n.reports = append(n.reports, s)
			return nil
		},
	}
}

// start begins anew on the node, as a restarted daemon does.
func (n *node) start(change ...func(*agent.Config)) {
	n.t.Helper()
	c := n.config()
	if len(n.reports) > 0 {
		c.Previous = n.reports[len(n.reports)-1]
	}
	for _, f := range change {
		f(&c)
	}
	n.agent = agent.New(c)
}

// reconcile asks the agent for the Modules and gives what it says.
func (n *node) reconcile(wants ...want) spec.Status {
	n.t.Helper()
	return n.reconcileNode(documents(wants...))
}

func (n *node) reconcileNode(desired spec.Node) spec.Status {
	n.t.Helper()
	if n.agent == nil {
		n.start()
	}
	n.agent.SetDesired(desired)
	s, err := n.agent.Reconcile(n.t.Context())
	require.NoError(n.t, err)
	return s
}

// calls gives the calls since the last time.
func (n *node) calls() []string {
	defer n.ResetCalls()
	return n.Calls()
}

// runs says which build of a module runs: "in-tree", the version of ours, or
// "" for none.
func (n *node) runs(name string) string {
	m, err := n.Module(name)
	switch {
	case err != nil:
		return ""
	case !strings.Contains(m.Taint, "O"):
		return "in-tree"
	}
	return m.Version
}

// ledger is the file, decoded.
func (n *node) ledger() map[string]any {
	n.t.Helper()
	data, err := os.ReadFile(n.path("run/ledger.json"))
	require.NoError(n.t, err)
	var out map[string]any
	require.NoError(n.t, json.Unmarshal(data, &out))
	return out
}

// one is the only Module of a status.
func one(t testing.TB, s spec.Status) spec.ModuleStatus {
	t.Helper()
	require.Len(t, s.Modules, 1)
	return s.Modules[0]
}

// newMetrics gives figures and where they are registered.
func newMetrics() (*agent.Metrics, *prometheus.Registry) {
	r := prometheus.NewRegistry()
	return agent.NewMetrics(r), r
}

// hasFirmware puts a file into the firmware directory, as an administrator does.
func (n *node) hasFirmware(name, content string) {
	n.t.Helper()
	require.NoError(n.t, os.MkdirAll(n.path("firmware"), 0o755))
	require.NoError(n.t, os.WriteFile(n.path("firmware", name), []byte(content), 0o644))
}

func readFile(t testing.TB, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(data)
}
