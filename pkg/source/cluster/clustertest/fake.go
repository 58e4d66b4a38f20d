// SPDX-License-Identifier: Apache-2.0

// Package clustertest has an API server in memory for tests of pkg/source/cluster,
// and the contract test that it and a real one pass.
package clustertest

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
)

// Fake is an API server that knows NodeModulesConfigs and Secrets, as far as an
// agent and its tests ask: get, list and watch with a field selector, create,
// update, delete, and a patch of the status. It keeps everything in memory.
type Fake struct {
	address string

	mu      sync.Mutex // guards what follows
	server  *http.Server
	version int
	objects map[string]*v1beta1.NodeModulesConfig
	events  []event
	changed chan struct{} // closed with the next event
	secrets map[string]json.RawMessage
}

type event struct {
	version int
	kind    string
	object  *v1beta1.NodeModulesConfig
}

const collection = "/apis/kmm.sigs.x-k8s.io/v1beta1/nodemodulesconfigs"

// NewFake starts one on the loopback interface, until the test ends.
func NewFake(t testing.TB) *Fake {
	t.Helper()
	// Connections and other tests take their ports of 127.0.0.1; this one is taken again by Start.
	f := &Fake{address: "127.0.76.1:0", objects: map[string]*v1beta1.NodeModulesConfig{}, changed: make(chan struct{}), secrets: map[string]json.RawMessage{}}
	f.Start(t)
	t.Cleanup(func() { f.Stop(t) })
	return f
}

// Config is access to it.
func (f *Fake) Config() *rest.Config { return &rest.Config{Host: "http://" + f.address, QPS: -1} }

// Stop ends all connections and answers nobody. What is stored stays.
func (f *Fake) Stop(testing.TB) {
	f.mu.Lock()
	s := f.server
	f.server = nil
	f.mu.Unlock()
	if s != nil {
		_ = s.Close()
	}
}

// Start serves at the same address as before.
func (f *Fake) Start(t testing.TB) {
	t.Helper()
	l, err := net.Listen("tcp", f.address)
	require.NoError(t, err)
	f.address = l.Addr().String()
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+collection, f.list)
	mux.HandleFunc("POST "+collection, f.create)
	mux.HandleFunc("GET "+collection+"/{name}", f.get)
	mux.HandleFunc("PUT "+collection+"/{name}", f.update)
	mux.HandleFunc("DELETE "+collection+"/{name}", f.remove)
	mux.HandleFunc("PUT "+collection+"/{name}/status", f.updateStatus)
	mux.HandleFunc("PATCH "+collection+"/{name}/status", f.patchStatus)
	mux.HandleFunc("/api/v1/namespaces/{namespace}/secrets/{name}", f.secret)
	mux.HandleFunc("POST /api/v1/namespaces/{namespace}/secrets", f.createSecret)
	s := &http.Server{Handler: mux}
	f.mu.Lock()
	f.server = s
	f.mu.Unlock()
	go func() { _ = s.Serve(l) }()
}

// selected is the only name that the request is about, "" for all.
func selected(r *http.Request) string {
	return strings.TrimPrefix(r.URL.Query().Get("fieldSelector"), "metadata.name=")
}

func (f *Fake) list(w http.ResponseWriter, r *http.Request) {
	if r.URL.Query().Get("watch") != "" {
		f.watch(w, r)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	list := v1beta1.NodeModulesConfigList{ListMeta: metav1.ListMeta{ResourceVersion: strconv.Itoa(f.version)}, Items: []v1beta1.NodeModulesConfig{}}
	list.APIVersion, list.Kind = v1beta1.GroupVersion.String(), "NodeModulesConfigList"
	for _, name := range f.names(selected(r)) {
		list.Items = append(list.Items, *f.objects[name])
	}
	answer(w, http.StatusOK, &list)
}

// names of the objects that are selected, sorted.
func (f *Fake) names(only string) []string {
	var out []string
	for name := range f.objects {
		if only == "" || name == only {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// watch sends events behind a version, or with sendInitialEvents what there is,
// a bookmark and what comes then.
func (f *Fake) watch(w http.ResponseWriter, r *http.Request) {
	query, only := r.URL.Query(), selected(r)
	from, _ := strconv.Atoi(query.Get("resourceVersion"))
	var pending []event
	f.mu.Lock()
	if query.Get("sendInitialEvents") == "true" {
		for _, name := range f.names(only) {
			pending = append(pending, event{f.version, "ADDED", f.objects[name]})
		}
		end := &v1beta1.NodeModulesConfig{ObjectMeta: metav1.ObjectMeta{
			ResourceVersion: strconv.Itoa(f.version), Annotations: map[string]string{metav1.InitialEventsAnnotationKey: "true"}}}
		pending = append(pending, event{f.version, "BOOKMARK", named(end)})
		from = f.version
	}
	f.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	flush := http.NewResponseController(w)
	for {
		for _, e := range pending {
			if only == "" || e.kind == "BOOKMARK" || e.object.Name == only {
				_ = json.NewEncoder(w).Encode(map[string]any{"type": e.kind, "object": e.object})
			}
		}
		_ = flush.Flush()
		f.mu.Lock()
		changed := f.changed
		pending = nil
		for _, e := range f.events {
			if e.version > from {
				pending = append(pending, e)
				from = e.version
			}
		}
		f.mu.Unlock()
		if len(pending) > 0 {
			continue
		}
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		}
	}
}

func named(o *v1beta1.NodeModulesConfig) *v1beta1.NodeModulesConfig {
	o.APIVersion, o.Kind = v1beta1.GroupVersion.String(), "NodeModulesConfig"
	return o
}

// happen stores an object, or takes it away, and tells the watchers. The caller
// holds the mutex.
func (f *Fake) happen(kind string, o *v1beta1.NodeModulesConfig) *v1beta1.NodeModulesConfig {
	f.version++
	o = named(o.DeepCopy())
	o.ResourceVersion = strconv.Itoa(f.version)
	f.objects[o.Name] = o
	if kind == "DELETED" {
		delete(f.objects, o.Name)
	}
	f.events = append(f.events, event{f.version, kind, o})
	close(f.changed)
	f.changed = make(chan struct{})
	return o
}

func (f *Fake) get(w http.ResponseWriter, r *http.Request) {
	f.with(w, r, func(o *v1beta1.NodeModulesConfig) { answer(w, http.StatusOK, o) })
}

// with calls do with the object of the request, if it is there.
func (f *Fake) with(w http.ResponseWriter, r *http.Request, do func(*v1beta1.NodeModulesConfig)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	o := f.objects[r.PathValue("name")]
	if o == nil {
		missing(w, r)
		return
	}
	do(o.DeepCopy())
}

func (f *Fake) create(w http.ResponseWriter, r *http.Request) {
	var o v1beta1.NodeModulesConfig
	if !read(w, r, &o) {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.objects[o.Name] != nil {
		refuse(w, http.StatusConflict, metav1.StatusReasonAlreadyExists, o.Name+" is there")
		return
	}
	o.UID, o.Generation, o.Status = types.UID(fmt.Sprintf("uid-%d", f.version+1)), 1, v1beta1.NodeModulesConfigStatus{}
	answer(w, http.StatusCreated, f.happen("ADDED", &o))
}

func (f *Fake) update(w http.ResponseWriter, r *http.Request) {
	var o v1beta1.NodeModulesConfig
	if !read(w, r, &o) {
		return
	}
	f.with(w, r, func(old *v1beta1.NodeModulesConfig) {
		before, _ := json.Marshal(old.Spec)
		after, _ := json.Marshal(o.Spec)
		if string(before) != string(after) {
			old.Spec = o.Spec
			old.Generation++
		}
		old.Labels, old.Annotations = o.Labels, o.Annotations
		answer(w, http.StatusOK, f.happen("MODIFIED", old))
	})
}

func (f *Fake) remove(w http.ResponseWriter, r *http.Request) {
	f.with(w, r, func(o *v1beta1.NodeModulesConfig) { answer(w, http.StatusOK, f.happen("DELETED", o)) })
}

func (f *Fake) updateStatus(w http.ResponseWriter, r *http.Request) {
	var o v1beta1.NodeModulesConfig
	if read(w, r, &o) {
		f.setStatus(w, r, "", o.Status)
	}
}

func (f *Fake) patchStatus(w http.ResponseWriter, r *http.Request) {
	var patch []struct {
		Op, Path string
		Value    json.RawMessage
	}
	if !read(w, r, &patch) {
		return
	}
	var uid types.UID
	var status v1beta1.NodeModulesConfigStatus
	if kind := r.Header.Get("Content-Type"); kind != string(types.JSONPatchType) || len(patch) != 2 || patch[0].Op+patch[0].Path != "test/metadata/uid" ||
		patch[1].Op+patch[1].Path != "add/status" || json.Unmarshal(patch[0].Value, &uid) != nil || json.Unmarshal(patch[1].Value, &status) != nil {
		refuse(w, http.StatusUnsupportedMediaType, metav1.StatusReasonUnsupportedMediaType, "only a test of /metadata/uid and an add of /status are known here")
		return
	}
	f.setStatus(w, r, uid, status)
}

// setStatus is refused when another object than that of the UID has the name; "" is any.
func (f *Fake) setStatus(w http.ResponseWriter, r *http.Request, uid types.UID, status v1beta1.NodeModulesConfigStatus) {
	f.with(w, r, func(o *v1beta1.NodeModulesConfig) {
		if uid != "" && o.UID != uid {
			refuse(w, http.StatusUnprocessableEntity, metav1.StatusReasonInvalid, "the server rejected our request due to an error in our request")
			return
		}
		before, _ := json.Marshal(o.Status)
		after, _ := json.Marshal(status)
		if string(before) == string(after) {
			answer(w, http.StatusOK, o) // as a real one, which writes nothing then
			return
		}
		o.Status = status
		answer(w, http.StatusOK, f.happen("MODIFIED", o))
	})
}
