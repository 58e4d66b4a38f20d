// SPDX-License-Identifier: Apache-2.0

package clustertest

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/retry"

	"github.com/kmm-node/kmmd/pkg/api/client"
	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
	"github.com/kmm-node/kmmd/pkg/source/cluster"
	"github.com/kmm-node/kmmd/pkg/spec"
)

// patience is how long a test waits for what must come, and only if it fails to
// come.
const patience = 2 * time.Minute

// Server is an API server with the CRD of NodeModulesConfigs and the namespace
// default.
type Server struct {
	// Admin may do all.
	Admin *rest.Config
	// Agent gives the access that the kmmd of a node has; nil is Admin's. Secrets
	// are those that the test makes in the namespace default.
	Agent func(t *testing.T, node string, secrets ...string) *rest.Config
	// Stop and Start make the server unreachable and reachable again; without them
	// this is not tested.
	Stop, Start func(t testing.TB)
}

// Test is what a Source and a server do together.
func Test(t *testing.T, s Server) {
	t.Run("side by side", func(t *testing.T) {
		for _, tt := range []struct {
			name string
			test func(*testing.T, Server)
		}{
			{"orders", testOrders},
			{"an entry that can not be obeyed", testInvalid},
			{"object gone and made again", testGone},
			{"held", testHeld},
			{"restart", testRestart},
			{"secrets", testSecrets},
			{"status", testStatus},
			{"status waits for what it is about", testStatusWaits},
			{"status that somebody else changes", testStatusChanged},
			{"refused and leaving", testRefused},
		} {
			t.Run(tt.name, func(t *testing.T) {
				t.Parallel()
				tt.test(t, s)
			})
		}
	})
	if s.Stop != nil {
		t.Run("stopped and back", func(t *testing.T) { testStopped(t, s) })
	}
}

// node is a node of a test: what the cluster wants of it, and its source.
type node struct {
	t       *testing.T
	name    string
	server  Server
	admin   *client.Client
	state   string
	patches atomic.Int64 // sent by the source
	late    atomic.Int64 // of these, for an object that was gone, or another

	meanwhile atomic.Pointer[func()] // once, while the next one is on its way

	source *cluster.Source
	got    chan spec.Node
	stop   func()
}

func newNode(t *testing.T, s Server) *node {
	t.Helper()
	admin, err := client.New(s.Admin)
	require.NoError(t, err)
	name := strings.ToLower(strings.NewReplacer("/", "-", "_", "-", "#", "-").Replace(t.Name()))
	n := &node{t: t, name: fmt.Sprintf("n%d-%s", time.Now().UnixNano(), name[max(0, len(name)-30):]), server: s, admin: admin}
	n.state = filepath.Join(t.TempDir(), "state", "cluster.json")
	t.Cleanup(func() {
		if n.stop != nil {
			n.stop()
		}
		_ = admin.NodeModulesConfigs().Delete(context.WithoutCancel(t.Context()), n.name, metav1.DeleteOptions{})
	})
	return n
}

// start runs a source, as a kmmd that starts does.
func (n *node) start(secrets ...string) {
	n.t.Helper()
	access := rest.CopyConfig(n.server.Admin)
	if n.server.Agent != nil {
		access = n.server.Agent(n.t, n.name, secrets...)
	}
	access.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return tripper(func(r *http.Request) (*http.Response, error) {
			if r.Method == http.MethodPatch {
				n.patches.Add(1)
				if f := n.meanwhile.Swap(nil); f != nil {
					(*f)()
				}
			}
			res, err := next.RoundTrip(r)
			if r.Method == http.MethodPatch && err == nil && (res.StatusCode == http.StatusNotFound || res.StatusCode == http.StatusUnprocessableEntity) {
				n.late.Add(1)
			}
			return res, err
		})
	})
	var err error
	n.source, err = cluster.New(cluster.Config{
		Node: n.name, StateFile: n.state, Connect: func() (*rest.Config, error) { return access, nil },
		Log: slog.New(slog.NewTextHandler(n.t.Output(), nil)),
	})
	require.NoError(n.t, err)
	ctx, cancel := context.WithCancel(n.t.Context())
	got, done := make(chan spec.Node, 1000), make(chan error, 1)
	n.got = got
	go func() { done <- n.source.Watch(ctx, func(o spec.Node) { got <- o }) }()
	n.stop = func() {
		cancel()
		assert.NoError(n.t, <-done)
		n.stop = nil
	}
}

type tripper func(*http.Request) (*http.Response, error)

func (f tripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// next is what is wanted next.
func (n *node) next() spec.Node {
	n.t.Helper()
	select {
	case o := <-n.got:
		return o
	case <-time.After(patience):
		require.Fail(n.t, "nothing is wanted")
		panic("not reached")
	}
}

// order has the cluster ask for these entries.
func (n *node) order(entries ...v1beta1.NodeModule) *v1beta1.NodeModulesConfig {
	n.t.Helper()
	return n.orderSpec(v1beta1.NodeModulesConfigSpec{Modules: entries})
}

func (n *node) orderSpec(spec v1beta1.NodeModulesConfigSpec) *v1beta1.NodeModulesConfig {
	n.t.Helper()
	c := n.admin.NodeModulesConfigs()
	old, err := c.Get(n.t.Context(), n.name, metav1.GetOptions{})
	if err == nil {
		err = retry.RetryOnConflict(retry.DefaultBackoff, func() error { // the source writes, too
			if old, err = c.Get(n.t.Context(), n.name, metav1.GetOptions{}); err == nil {
				old.Spec = spec
				old, err = c.Update(n.t.Context(), old, metav1.UpdateOptions{})
			}
			return err
		})
	} else {
		old, err = n.create(spec)
	}
	require.NoError(n.t, err)
	return old
}

func (n *node) create(spec v1beta1.NodeModulesConfigSpec) (*v1beta1.NodeModulesConfig, error) {
	return n.admin.NodeModulesConfigs().Create(n.t.Context(), &v1beta1.NodeModulesConfig{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1beta1.GroupVersion.String(), Kind: "NodeModulesConfig"},
		ObjectMeta: metav1.ObjectMeta{Name: n.name}, Spec: spec,
	}, metav1.CreateOptions{})
}

func (n *node) object() *v1beta1.NodeModulesConfig {
	n.t.Helper()
	o, err := n.admin.NodeModulesConfigs().Get(n.t.Context(), n.name, metav1.GetOptions{})
	require.NoError(n.t, err)
	return o
}

// until waits for a status.
func (n *node) until(what string, is func(v1beta1.NodeModulesConfigStatus) bool) v1beta1.NodeModulesConfigStatus {
	n.t.Helper()
	var s v1beta1.NodeModulesConfigStatus
	require.Eventually(n.t, func() bool {
		o, err := n.admin.NodeModulesConfigs().Get(n.t.Context(), n.name, metav1.GetOptions{})
		if err == nil {
			s = o.Status
		}
		return err == nil && is(s)
	}, patience, 20*time.Millisecond, "no status: %s", what)
	return s
}

// marked waits for a status by its kernel release.
func (n *node) marked(release string) v1beta1.NodeModulesConfigStatus {
	n.t.Helper()
	return n.until(release, func(s v1beta1.NodeModulesConfigStatus) bool { return s.KernelRelease == release })
}

// report is a status about a generation, told apart by its kernel release.
func (n *node) report(generation int64, release string, change ...func(*spec.Status)) {
	n.t.Helper()
	s := status(generation, release)
	for _, f := range change {
		f(&s)
	}
	require.NoError(n.t, n.source.Report(n.t.Context(), s))
}

var at = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func status(generation int64, release string) spec.Status {
	return spec.Status{
		Version: "v1", KernelRelease: release, BootID: "boot", Time: at, ObservedGeneration: generation,
		Facts: spec.Facts{SecureBoot: "no", Lockdown: "none", SignatureEnforced: "yes"},
		Modules: []spec.ModuleStatus{{
			Namespace: "default", Name: "nic", Revision: "r1", State: spec.StateLoaded, Image: "r/x:1", Digest: "sha256:ab", Version: "2", Since: at,
			Kernel: []spec.LoadedModule{{Name: "dummy", BuildID: "ab", Parameters: []string{"a=1"}, Refs: 3}}, Warnings: []string{"w"},
		}},
	}
}

// entry is a good one.
func entry(name, revision string) v1beta1.NodeModule {
	return v1beta1.NodeModule{
		Namespace: "default", Name: name, Revision: revision, PullSecrets: []string{"one", "two"},
		Annotations: map[string]string{spec.AnnotationAllowInUse: "network"},
		ModuleLoader: v1beta1.ModuleLoaderSpec{Container: v1beta1.ModuleLoaderContainerSpec{
			ContainerImage: "registry.example/x:1", InTreeModulesToRemove: []string{"dummy"},
			Modprobe:       v1beta1.ModprobeSpec{ModuleName: "dummy", DirName: "/opt"},
			KernelMappings: []v1beta1.KernelMapping{{Literal: "none", InTreeModulesToRemove: []string{}}, {Regexp: "^.+$"}},
		}},
	}
}

func (n *node) secret(method, name, password string) {
	n.t.Helper()
	docker := fmt.Sprintf(`{"auths":{"registry.example":{"username":"u","password":%q}}}`, password)
	body, err := json.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/dockerconfigjson", "metadata": map[string]string{"name": name},
		"data": map[string][]byte{".dockerconfigjson": []byte(docker)},
	})
	require.NoError(n.t, err)
	path := []string{"/api/v1/namespaces/default/secrets"}
	if method != http.MethodPost {
		path = append(path, name)
	}
	r := n.admin.REST().Verb(method).AbsPath(path...)
	if method != http.MethodDelete {
		r = r.Body(body)
	}
	require.NoError(n.t, r.Do(context.WithoutCancel(n.t.Context())).Error())
}
