// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
)

// TestResource shows what each verb sends. What a real API server makes of it, pkg/source/cluster/clustertest and test/cluster try.
func TestResource(t *testing.T) {
	var sent string
	status, answer := http.StatusOK, `{"kind":"Module","apiVersion":"kmm.sigs.x-k8s.io/v1beta1","metadata":{"name":"nic","resourceVersion":"7"}}`
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		assert.NoError(t, err)
		sent = fmt.Sprintf("%s %s %s", r.Method, r.URL, body)
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_, _ = w.Write([]byte(answer))
	}))
	defer server.Close()
	c, err := New(&rest.Config{Host: server.URL})
	require.NoError(t, err)
	ctx, modules, configs := t.Context(), c.Modules("ns"), c.NodeModulesConfigs()
	module := &v1beta1.Module{ObjectMeta: metav1.ObjectMeta{Name: "nic", ResourceVersion: "6"}}
	seconds := int64(5)
	const path = "/apis/kmm.sigs.x-k8s.io/v1beta1/"
	const body = `{"kind":"Module","apiVersion":"kmm.sigs.x-k8s.io/v1beta1","metadata":{"name":"nic","resourceVersion":"6"}`
	tests := []struct {
		name, want string
		do         func() (*v1beta1.Module, error)
	}{
		{"get", "GET " + path + "namespaces/ns/modules/nic?resourceVersion=0 ", func() (*v1beta1.Module, error) {
			return modules.Get(ctx, "nic", metav1.GetOptions{ResourceVersion: "0"})
		}},
		{"create", "POST " + path + "namespaces/ns/modules?dryRun=All " + body, func() (*v1beta1.Module, error) {
			return modules.Create(ctx, module, metav1.CreateOptions{DryRun: []string{"All"}})
		}},
		{"update", "PUT " + path + "namespaces/ns/modules/nic?fieldManager=me " + body, func() (*v1beta1.Module, error) {
			return modules.Update(ctx, module, metav1.UpdateOptions{FieldManager: "me"})
		}},
		{"update status", "PUT " + path + "namespaces/ns/modules/nic/status " + body, func() (*v1beta1.Module, error) {
			return modules.UpdateStatus(ctx, module, metav1.UpdateOptions{})
		}},
		{"patch", "PATCH " + path + "namespaces/ns/modules/nic/status?force=true {}", func() (*v1beta1.Module, error) {
			force := true
			return modules.Patch(ctx, "nic", types.MergePatchType, []byte("{}"), metav1.PatchOptions{Force: &force}, "status")
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := tt.do()
			require.NoError(t, err)
			assert.Contains(t, sent, tt.want)
			assert.Equal(t, "7", got.ResourceVersion)
		})
	}

	_, err = c.Modules("").List(ctx, metav1.ListOptions{LabelSelector: "a=b", TimeoutSeconds: &seconds})
	require.NoError(t, err)
	assert.Equal(t, "GET "+path+"modules?labelSelector=a%3Db&timeout=5s&timeoutSeconds=5 ", sent)
	watch, err := configs.Watch(ctx, metav1.ListOptions{ResourceVersion: "7"})
	require.NoError(t, err)
	watch.Stop()
	assert.Equal(t, "GET "+path+"nodemodulesconfigs?resourceVersion=7&watch=true ", sent)
	require.NoError(t, configs.Delete(ctx, "node", metav1.DeleteOptions{PropagationPolicy: new(metav1.DeletePropagationForeground)}))
	assert.Contains(t, sent, "DELETE "+path+"nodemodulesconfigs/node ")
	assert.Contains(t, sent, `"propagationPolicy":"Foreground"`)

	status, answer = http.StatusNotFound, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"NotFound","code":404}`
	got, err := modules.Get(ctx, "none", metav1.GetOptions{})
	assert.True(t, apierrors.IsNotFound(err), err)
	assert.NotNil(t, got)
}

// TestNoName: without a name, a request would be about all objects there are.
func TestNoName(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		assert.Fail(t, "sent", "%s %s", r.Method, r.URL)
	}))
	defer server.Close()
	c, err := New(&rest.Config{Host: server.URL})
	require.NoError(t, err)
	modules := c.Modules("ns")
	for name, do := range map[string]func(context.Context) error{
		"get": func(ctx context.Context) error { _, err := modules.Get(ctx, "", metav1.GetOptions{}); return err },
		"update": func(ctx context.Context) error {
			_, err := modules.Update(ctx, &v1beta1.Module{}, metav1.UpdateOptions{})
			return err
		},
		"delete": func(ctx context.Context) error { return modules.Delete(ctx, "", metav1.DeleteOptions{}) },
		"patch": func(ctx context.Context) error {
			_, err := modules.Patch(ctx, "", types.MergePatchType, []byte("{}"), metav1.PatchOptions{})
			return err
		},
	} {
		assert.ErrorContains(t, do(t.Context()), "name may not be empty", name)
	}
}

// TestUnreadableStatus: what one node says, and Go can not read, keeps nobody from what the others say.
func TestUnreadableStatus(t *testing.T) {
	const header = `"apiVersion":"kmm.sigs.x-k8s.io/v1beta1","kind":"NodeModulesConfig`
	object := func(name, since string) string {
		return `{` + header + `","metadata":{"name":"` + name + `","generation":3},"spec":{"held":[{"namespace":"a","name":"b"}]},
			"status":{"bootID":"boot","modules":[{"namespace":"a","name":"b","state":"Loaded","since":"` + since + `"}]}}`
	}
	bad, good := object("n1", "2026-01-01t00:00:00z"), object("n2", "2026-01-01T00:00:00Z")
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch {
		case r.URL.Query().Has("watch"):
			_, _ = w.Write([]byte(`{"type":"ADDED","object":` + bad + `}{"type":"MODIFIED","object":` + good + `}`))
		case r.URL.Path == "/apis/kmm.sigs.x-k8s.io/v1beta1/nodemodulesconfigs":
			_, _ = w.Write([]byte(`{` + header + `List","metadata":{"resourceVersion":"7"},"items":[` + bad + `,` + good + `]}`))
		default:
			_, _ = w.Write([]byte(bad))
		}
	}))
	defer server.Close()
	c, err := New(&rest.Config{Host: server.URL})
	require.NoError(t, err)
	var said []string
	c.Unreadable(func(kind, namespace, name string, err error) {
		said = append(said, fmt.Sprint(kind, " ", namespace, name, ": ", err))
	})
	check := func(o *v1beta1.NodeModulesConfig) {
		t.Helper()
		assert.EqualValues(t, 3, o.Generation)
		assert.Equal(t, []v1beta1.HeldModule{{Namespace: "a", Name: "b"}}, o.Spec.Held)
		if o.Name == "n1" {
			assert.Zero(t, o.Status)
			return
		}
		assert.Equal(t, "n2", o.Name)
		assert.Len(t, o.Status.Modules, 1)
	}

	one, err := c.NodeModulesConfigs().Get(t.Context(), "n1", metav1.GetOptions{})
	require.NoError(t, err)
	check(one)
	list, err := c.NodeModulesConfigs().List(t.Context(), metav1.ListOptions{})
	require.NoError(t, err)
	assert.Equal(t, "7", list.ResourceVersion)
	require.Len(t, list.Items, 2)
	check(&list.Items[0])
	check(&list.Items[1])
	watch, err := c.NodeModulesConfigs().Watch(t.Context(), metav1.ListOptions{})
	require.NoError(t, err)
	defer watch.Stop()
	for range 2 {
		event := <-watch.ResultChan()
		require.IsType(t, one, event.Object)
		check(event.Object.(*v1beta1.NodeModulesConfig))
	}
	require.Len(t, said, 3)
	for _, text := range said {
		assert.Contains(t, text, "NodeModulesConfig n1: ")
		assert.Contains(t, text, "2026-01-01t00:00:00z")
	}
}

// TestUnreadableSpec: without it an object asks for something else.
func TestUnreadableSpec(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"apiVersion":"kmm.sigs.x-k8s.io/v1beta1","kind":"ModuleList","items":[{"apiVersion":"kmm.sigs.x-k8s.io/v1beta1","kind":"Module",
			"metadata":{"name":"m"},"spec":{"selector":{},"rollout":{"maxUnavailable":3000000000}},"status":{"observedGeneration":1}}]}`))
	}))
	defer server.Close()
	c, err := New(&rest.Config{Host: server.URL})
	require.NoError(t, err)
	c.Unreadable(func(kind, _, name string, _ error) { assert.Fail(t, "it is not the status", "%s %s", kind, name) })
	_, err = c.Modules("").List(t.Context(), metav1.ListOptions{})
	assert.ErrorContains(t, err, "maxUnavailable")
}
