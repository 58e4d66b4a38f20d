// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
)

// Resource is the objects of one kind, T, and their lists, L, of one namespace or of
// the cluster. Errors are the API server's (k8s.io/apimachinery/pkg/api/errors) or of
// the way there; what is returned beside one is empty, never nil.
//
// It is what k8s.io/client-go/gentype does, which also links that library's fakes, and
// what those need has a part in what kmmd does before main.
type Resource[T, L any] struct {
	rest      rest.Interface
	codec     runtime.ParameterCodec
	resource  string
	namespace string
}

// Get reads one object.
func (r *Resource[T, L]) Get(ctx context.Context, name string, options metav1.GetOptions) (*T, error) {
	return into(ctx, new(T), r.one(r.rest.Get(), name).VersionedParams(&options, r.codec))
}

// List reads those that the options select.
func (r *Resource[T, L]) List(ctx context.Context, options metav1.ListOptions) (*L, error) {
	return into(ctx, new(L), r.all(r.rest.Get()).VersionedParams(&options, r.codec).Timeout(timeout(options)))
}

// Watch tells of changes until the caller stops it or the server ends it.
func (r *Resource[T, L]) Watch(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
	options.Watch = true
	return r.all(r.rest.Get()).VersionedParams(&options, r.codec).Timeout(timeout(options)).Watch(ctx)
}

// Create makes object and returns what has become of it.
func (r *Resource[T, L]) Create(ctx context.Context, object *T, options metav1.CreateOptions) (*T, error) {
	return into(ctx, new(T), r.all(r.rest.Post()).VersionedParams(&options, r.codec).Body(object))
}

// Update replaces object but for its status, if it is still of object's resourceVersion.
func (r *Resource[T, L]) Update(ctx context.Context, object *T, options metav1.UpdateOptions) (*T, error) {
	return into(ctx, new(T), r.one(r.rest.Put(), any(object).(metav1.Object).GetName()).VersionedParams(&options, r.codec).Body(object))
}

// UpdateStatus replaces the status of object, if it is still of object's resourceVersion.
func (r *Resource[T, L]) UpdateStatus(ctx context.Context, object *T, options metav1.UpdateOptions) (*T, error) {
	return into(ctx, new(T), r.one(r.rest.Put(), any(object).(metav1.Object).GetName()).VersionedParams(&options, r.codec).SubResource("status").Body(object))
}

// Delete removes one object.
func (r *Resource[T, L]) Delete(ctx context.Context, name string, options metav1.DeleteOptions) error {
	return r.one(r.rest.Delete(), name).Body(&options).Do(ctx).Error()
}

// Patch changes one object, or a subresource of it.
func (r *Resource[T, L]) Patch(ctx context.Context, name string, kind types.PatchType, data []byte, options metav1.PatchOptions, subresources ...string) (*T, error) {
	return into(ctx, new(T), r.one(r.rest.Patch(kind), name).VersionedParams(&options, r.codec).SubResource(subresources...).Body(data))
}

func (r *Resource[T, L]) all(request *rest.Request) *rest.Request {
	return request.NamespaceIfScoped(r.namespace, r.namespace != "").Resource(r.resource)
}

// one is an error of the request where name is empty: that would be all of them.
func (r *Resource[T, L]) one(request *rest.Request, name string) *rest.Request {
	return r.all(request).Name(name)
}

func into[O any](ctx context.Context, object *O, request *rest.Request) (*O, error) {
	return object, request.Do(ctx).Into(any(object).(runtime.Object))
}

func timeout(options metav1.ListOptions) time.Duration {
	if options.TimeoutSeconds == nil {
		return 0
	}
	return time.Duration(*options.TimeoutSeconds) * time.Second
}
