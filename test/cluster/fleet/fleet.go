// SPDX-License-Identifier: Apache-2.0

// Package fleet plays the nodes of a cluster: each has a Node object, a kernel in
// memory that obeys the real rules, and on top of it the real agent with the
// real source, which reaches the API server with the node's own identity. Tests
// only.
package fleet

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"

	"github.com/kmm-node/kmmd/pkg/images/imagestest"
	"github.com/kmm-node/kmmd/pkg/kernel/kerneltest"
	"github.com/kmm-node/kmmd/pkg/kmod"
	"github.com/kmm-node/kmmd/pkg/kmod/kmodtest"
	"github.com/kmm-node/kmmd/test/cluster/lab"
	"github.com/kmm-node/kmmd/test/cluster/play"
)

// The kernels that nodes have, and that images have modules for.
const (
	Release      = "6.1.0-56-cloud-amd64"
	OtherRelease = "6.12.117+deb12-cloud-amd64"
)

// Fleet is some nodes and a registry for their images.
type Fleet struct {
	t        testing.TB
	cluster  *lab.Cluster
	player   *play.Player
	Registry *imagestest.Registry

	mu       sync.Mutex // guards password
	password string     // that the registry asks for; "" asks for none
}

// New makes an empty fleet that ends with the test.
func New(t testing.TB, c *lab.Cluster, p *play.Player) *Fleet {
	t.Helper()
	f := &Fleet{t: t, cluster: c, player: p, Registry: imagestest.NewRegistry(t)}
	f.Registry.Handle(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		f.mu.Lock()
		want := f.password
		f.mu.Unlock()
		if _, password, _ := req.BasicAuth(); want != "" && password != want {
			w.Header().Set("WWW-Authenticate", `Basic realm="fleet"`)
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, req)
	})
	return f
}

// Protect has the registry ask for a password, of any user; "" asks for none.
func (f *Fleet) Protect(password string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.password = password
}

// Secret is a manifest of a pull secret for the registry.
func (f *Fleet) Secret(namespace, name, password string) string {
	auth := base64.StdEncoding.EncodeToString([]byte("user:" + password))
	doc := fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, f.Registry.Host, auth)
	return fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata: {namespace: %s, name: %s}\ntype: kubernetes.io/dockerconfigjson\ndata: {.dockerconfigjson: %s}\n",
		namespace, name, base64.StdEncoding.EncodeToString([]byte(doc)))
}

// Image pushes an image with modules of some names, of a version, for both
// kernels, and gives its reference.
func (f *Fleet) Image(version string, modules ...string) string {
	f.t.Helper()
	return f.ImageAs(version, version, modules...)
}

// ImageAs is Image under another tag than the version.
func (f *Fleet) ImageAs(tag, version string, modules ...string) string {
	f.t.Helper()
	files := map[string]string{}
	for _, release := range []string{Release, OtherRelease} {
		for _, name := range modules {
			s := kmodtest.Spec{
				Name: kmod.Name(name), Vermagic: kerneltest.Vermagic(release), Version: version,
				Params: []kmodtest.Param{{Name: "level", Type: "int"}},
			}
			files[filepath.Join("opt/lib/modules", release, name+".ko")] = string(kmodtest.Build(s))
		}
	}
	return f.push(tag, files)
}

// BrokenImage pushes an image that has nothing for any kernel.
func (f *Fleet) BrokenImage(version string) string {
	f.t.Helper()
	return f.push(version, map[string]string{"opt/readme": "no modules here"})
}

func (f *Fleet) push(tag string, files map[string]string) string {
	f.t.Helper()
	ref := f.Registry.Host + "/modules:" + strings.ToLower(tag)
	imagestest.Push(f.t, ref, imagestest.Layer(f.t, files))
	return ref
}

// Node makes a Node object and a machine for it, whose agent runs.
func (f *Fleet) Node(name string, labels map[string]string, taints ...corev1.Taint) *Machine {
	f.t.Helper()
	m := f.machine(name)
	require.NoError(f.t, f.player.AddNodes(f.t.Context(), play.Node{
		Name: name, Labels: labels, Taints: taints, BootID: m.Kernel.BootID(), Kernel: m.Kernel.Release(),
	}))
	m.identify()
	m.Start()
	return m
}

// identity is the node's own: the ServiceAccount of kmmd, bound to the Node.
func (f *Fleet) identity(ctx context.Context, node string) (*rest.Config, error) {
	return f.cluster.ServiceAccount(ctx, "kmm-system", "kmmd", node)
}
