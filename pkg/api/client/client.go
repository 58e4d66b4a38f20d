// SPDX-License-Identifier: Apache-2.0

// Package client reads and writes the objects of pkg/api in an API server, typed.
// It knows no rules.
package client

import (
	"fmt"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
	"github.com/kmm-node/kmmd/pkg/api/v1beta2"
)

// Client speaks to one API server. It may be used by several goroutines.
type Client struct {
	rest    rest.Interface // for v1beta1
	v1beta2 rest.Interface
	codec   runtime.ParameterCodec

	unreadable func(kind, namespace, name string, err error)
}

// New makes a client with the server, identity and limits of cfg, which it does
// not change. Nothing is sent yet.
func New(cfg *rest.Config) (*Client, error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{v1beta1.AddToScheme, v1beta2.AddToScheme} {
		if err := add(scheme); err != nil {
			return nil, fmt.Errorf("make client: %w", err)
		}
	}
	out := &Client{codec: runtime.NewParameterCodec(scheme)}
	var err error
	if out.rest, err = out.restFor(cfg, scheme, v1beta1.GroupVersion); err != nil {
		return nil, err
	}
	if out.v1beta2, err = out.restFor(cfg, scheme, v1beta2.GroupVersion); err != nil {
		return nil, err
	}
	return out, nil
}

func (c *Client) restFor(cfg *rest.Config, scheme *runtime.Scheme, version schema.GroupVersion) (rest.Interface, error) {
	out := rest.CopyConfig(cfg)
	out.GroupVersion, out.APIPath = &version, "/apis"
	out.NegotiatedSerializer = tolerant{serializer.NewCodecFactory(scheme).WithoutConversion(), c}
	out.ContentType, out.AcceptContentTypes = runtime.ContentTypeJSON, runtime.ContentTypeJSON // no protobuf for custom resources
	if out.UserAgent == "" {
		out.UserAgent = rest.DefaultKubernetesUserAgent()
	}
	r, err := rest.RESTClientFor(out)
	if err != nil {
		return nil, fmt.Errorf("make client: %w", err)
	}
	return r, nil
}

// Unreadable has f told of each object whose status could not be read: it is returned
// as one that has none. It has to be called before anything is read.
func (c *Client) Unreadable(f func(kind, namespace, name string, err error)) { c.unreadable = f }

// REST is the client below, for informers of v1beta1.
func (c *Client) REST() rest.Interface { return c.rest }

// V1beta2 is the same for informers of v1beta2.
func (c *Client) V1beta2() rest.Interface { return c.v1beta2 }

// Modules of one namespace; "" is all of them, for lists and watches.
func (c *Client) Modules(namespace string) *Resource[v1beta1.Module, v1beta1.ModuleList] {
	return &Resource[v1beta1.Module, v1beta1.ModuleList]{c.rest, c.codec, "modules", namespace}
}

// NodeModulesConfigs of the cluster.
func (c *Client) NodeModulesConfigs() *Resource[v1beta1.NodeModulesConfig, v1beta1.NodeModulesConfigList] {
	return &Resource[v1beta1.NodeModulesConfig, v1beta1.NodeModulesConfigList]{c.rest, c.codec, "nodemodulesconfigs", ""}
}

// PreflightValidations of the cluster.
func (c *Client) PreflightValidations() *Resource[v1beta2.PreflightValidation, v1beta2.PreflightValidationList] {
	return &Resource[v1beta2.PreflightValidation, v1beta2.PreflightValidationList]{c.v1beta2, c.codec, "preflightvalidations", ""}
}
