// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kmm-node/kmmd/pkg/api/client"
	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
	"github.com/kmm-node/kmmd/pkg/source/cluster/clustertest"
	"github.com/kmm-node/kmmd/test/faults/relay"
)

const (
	nodeName   = "worker"
	kubeconfig = "/etc/kmmd/kubeconfig"
	configFile = "/etc/kmmd/kmmd.toml"
)

// cluster is an API server in memory, which passes the same contract as a real
// one, behind a relay.
type cluster struct {
	t     *testing.T
	api   *relay.Relay
	admin *client.Client
}

// join makes the node one of a cluster, until the test ends.
func join(t *testing.T) *cluster {
	t.Helper()
	fake := clustertest.NewFake(t)
	api, err := relay.New("127.0.0.1:0", fake.Config().Host)
	require.NoError(t, err)
	admin, err := client.New(fake.Config())
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(kubeconfig, fmt.Appendf(nil, `apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "http://%s"}}]
contexts: [{name: c, context: {cluster: c, user: u}}]
users: [{name: u, user: {}}]
current-context: c
`, api.Address()), 0o600))
	require.NoError(t, os.WriteFile(configFile, fmt.Appendf(nil, "[cluster]\nenabled = true\nnode_name = %q\nkubeconfig = %q\n", nodeName, kubeconfig), 0o644))
	t.Cleanup(func() {
		api.Down()
		require.NoError(t, os.Remove(configFile))
	})
	return &cluster{t, api, admin}
}

// order asks for the swap of a scenario, or for nothing.
func (c *cluster) order(i *image) {
	c.t.Helper()
	o := &v1beta1.NodeModulesConfig{ObjectMeta: metav1.ObjectMeta{Name: nodeName}}
	o.APIVersion, o.Kind = v1beta1.GroupVersion.String(), "NodeModulesConfig"
	if i != nil {
		o.Spec.Modules = []v1beta1.NodeModule{{
			Namespace: "default", Name: "driver", Revision: i.name,
			ModuleLoader: v1beta1.ModuleLoaderSpec{Container: v1beta1.ModuleLoaderContainerSpec{
				InTreeModulesToRemove: both, RegistryTLS: &v1beta1.TLSOptions{Insecure: true},
				Modprobe: v1beta1.ModprobeSpec{
					ModuleName: "dummy", FirmwarePath: "/firmware", Parameters: []string{"numdummies=2"}, ModulesLoadingOrder: []string{"dummy", "kmm_dep"},
				},
				KernelMappings: []v1beta1.KernelMapping{{Regexp: "^.+$",
					ContainerImage: v1beta1.ImageTemplate(registry.Address() + "/test/" + i.name + ":1"), InTreeModulesToRemove: both}},
			}},
		}}
	}
	objects := c.admin.NodeModulesConfigs()
	old, err := objects.Get(c.t.Context(), nodeName, metav1.GetOptions{})
	if err != nil {
		_, err = objects.Create(c.t.Context(), o, metav1.CreateOptions{})
	} else {
		old.Spec = o.Spec
		_, err = objects.Update(c.t.Context(), old, metav1.UpdateOptions{})
	}
	require.NoError(c.t, err)
}

// loaded says whether the object's status tells that this build of dummy runs.
func (c *cluster) loaded(i *image, buildID string) error {
	o, err := c.admin.NodeModulesConfigs().Get(c.t.Context(), nodeName, metav1.GetOptions{})
	if err != nil {
		return err
	}
	for _, m := range o.Status.Modules {
		for _, k := range m.KernelModules {
			if m.Name == "driver" && m.Revision == i.name && m.State == "Loaded" && k.Name == "dummy" && k.BuildID == buildID {
				return nil
			}
		}
	}
	return fmt.Errorf("the status is %+v", o.Status)
}

// outage is an API server in trouble.
type outage struct {
	name  string
	which func(*http.Request) bool // requests that are concerned
	fault relay.Fault
	times int32 // how often; 0 is for as long as it lasts
	down  bool
	lasts bool // kmmd gets over it while it lasts
	// expired answers watches with 410 meanwhile: else they go on, and nobody lists.
	expired bool
}

func watches(r *http.Request) bool { return r.URL.Query().Get("watch") != "" }
func lists(r *http.Request) bool   { return r.Method == http.MethodGet && !watches(r) }
func patches(r *http.Request) bool { return r.Method == http.MethodPatch }
func reads(r *http.Request) bool   { return r.Method == http.MethodGet }

func failure(code int, reason string) string {
	return fmt.Sprintf(`{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"%s","reason":"%[1]s","code":%d}`, reason, code)
}

func status4xx(code int, reason string, headers map[string]string) relay.Fault {
	h := map[string]string{"Content-Type": "application/json"}
	for k, v := range headers {
		h[k] = v
	}
	return relay.Fault{Status: code, Header: h, Body: failure(code, reason)}
}

var json200 = map[string]string{"Content-Type": "application/json"}

var outages = []outage{
	{name: "down", down: true},
	{name: "slow, 3 s for each answer", fault: relay.Fault{Delay: 3 * time.Second}, lasts: true},
	{name: "hangs", fault: relay.Fault{End: relay.Hang}},
	{name: "hangs in a list", which: lists, expired: true, fault: relay.Fault{After: 20, End: relay.Hang}},
	{name: "resets", fault: relay.Fault{End: relay.Reset}},
	{name: "resets in a list", which: lists, expired: true, fault: relay.Fault{After: 20, End: relay.Reset}},
	{name: "500", fault: status4xx(500, "InternalError", nil)},
	{name: "503", fault: status4xx(503, "ServiceUnavailable", nil)},
	{name: "429, Retry-After: 1", fault: status4xx(429, "TooManyRequests", map[string]string{"Retry-After": "1"})},
	{name: "401", fault: status4xx(401, "Unauthorized", nil)},
	{name: "403", fault: status4xx(403, "Forbidden", nil)},
	{name: "410 for each watch", which: watches, fault: status4xx(410, "Expired", nil), lasts: true},
	{name: "410 in each watch", which: watches, lasts: true,
		fault: relay.Fault{Status: 200, Header: json200, Body: `{"type":"ERROR","object":` + failure(410, "Expired") + "}\n"}},
	{name: "garbage for a list", which: lists, expired: true, fault: relay.Fault{Status: 200, Header: json200, Body: "{"}},
	{name: "garbage in each watch", which: watches, fault: relay.Fault{Status: 200, Header: json200, Body: `{"type":"ADDED","object":{"kind"`}, lasts: true},
	{name: "watches that end at once", which: watches, fault: relay.Fault{End: relay.Close}, lasts: true},
	{name: "another page with 200", which: reads, fault: relay.Fault{Status: 200, Body: "<html>"}},
	{name: "409 for the status", which: patches, fault: status4xx(409, "Conflict", nil), times: 3, lasts: true},
	{name: "410 for the status", which: patches, fault: status4xx(410, "Gone", nil), times: 2, lasts: true},
	{name: "500 for the status", which: patches, fault: status4xx(500, "InternalError", nil), times: 3, lasts: true},
	{name: "resets after the status", which: patches, fault: relay.Fault{After: 10, End: relay.Reset}, times: 3, lasts: true},
}

// TestAPIServer orders a swap while the API server is in trouble. The node stays
// as it is until it can know, and runs and reports what is ordered once it does.
func TestAPIServer(t *testing.T) {
	s := changes[1]
	for _, o := range outages {
		if !full && o.name != "410 in each watch" {
			continue
		}
		t.Run(o.name, func(t *testing.T) {
			defer counts.Case(t, "API server")()
			s.begin(t)
			s.ask(t, nil)
			c := join(t)
			c.order(nil)
			d := startReady(t)
			c.api.Down()
			if o.down {
				c.order(s.toImage)
			} else {
				met := c.breaks(&o)
				c.order(s.toImage)
				require.NoError(t, c.api.Up())
				wait(t, met)
			}
			if !o.lasts {
				require.NoError(t, isNow(s.from.state(t)))
				c.api.Break(nil)
				require.NoError(t, c.api.Up())
			}
			c.untilOrdered(d, s)
			s.requireEnd(t)
		})
	}
}

// breaks begins an outage; met is closed when a request has met it.
func (c *cluster) breaks(o *outage) (met <-chan struct{}) {
	hit := make(chan struct{})
	var times atomic.Int32
	expired := status4xx(410, "Expired", nil)
	c.api.Break(func(r *http.Request) *relay.Fault {
		if o.expired && watches(r) {
			return &expired
		}
		if o.which != nil && !o.which(r) || strings.Contains(r.URL.Path, "/secrets/") {
			return nil
		}
		n := times.Add(1)
		if n == 1 {
			close(hit)
		}
		if o.times > 0 && n > o.times {
			return nil
		}
		return &o.fault
	})
	return hit
}

// untilOrdered waits for the end of a swap, and that it is told.
func (c *cluster) untilOrdered(d *daemon, s *scenario) {
	c.t.Helper()
	d.untilIs(s.to.state(c.t))
	id := s.to.state(c.t).Modules["dummy"].BuildID
	d.until("the status tells", func() error { return c.loaded(s.toImage, id) })
	d.stop()
}

// TestAPIServerAway restarts kmmd while there is no API server: the last order
// counts, in whatever state that finds the node.
func TestAPIServerAway(t *testing.T) {
	if !full {
		t.Skip("in the full campaign")
	}
	s := changes[1]
	for _, lost := range []string{"nothing", "the modules", "the object", "the saved order"} {
		t.Run(lost+" is lost", func(t *testing.T) {
			defer counts.Case(t, "API server")()
			s.begin(t)
			s.ask(t, nil)
			c := join(t)
			c.order(s.toImage)
			d := startReady(t)
			c.untilOrdered(d, s)
			c.api.Down()
			switch lost {
			case "the modules":
				unload(t)
			case "the saved order":
				require.NoError(t, os.WriteFile(stateDir+"/cluster.json", []byte("{"), 0o600))
				d = start(t)
				wait(t, time.After(3*time.Second)) // nobody knows what is wanted: nothing is done
				require.NoError(t, isNow(s.to.state(t)))
				d.stop()
				require.NoError(t, c.api.Up())
			case "the object":
				require.NoError(t, c.admin.NodeModulesConfigs().Delete(t.Context(), nodeName, metav1.DeleteOptions{}))
				require.NoError(t, c.api.Up())
			}
			d = startReady(t)
			d.untilIs(s.to.state(t))
			require.NoError(t, c.api.Up())
			d.stop()
			s.requireEnd(t)
		})
	}
}
