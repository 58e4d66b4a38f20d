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
