// SPDX-License-Identifier: Apache-2.0

// Package client reads and writes the objects of pkg/api/v1beta1 in an API
// server, typed. It knows no rules.
package client

import (
	"fmt"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/gentype"
	"k8s.io/client-go/rest"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
)

// Client speaks to one API server. It may be used by several goroutines.
type Client struct {
	rest  rest.Interface
	codec runtime.ParameterCodec
}

// Modules reads and writes Modules.
type Modules = gentype.ClientWithList[*v1beta1.Module, *v1beta1.ModuleList]

// NodeModulesConfigs reads and writes NodeModulesConfigs.
type NodeModulesConfigs = gentype.ClientWithList[*v1beta1.NodeModulesConfig, *v1beta1.NodeModulesConfigList]

// New makes a client with the server, identity and limits of cfg, which it does
// not change. Nothing is sent yet.
func New(cfg *rest.Config) (*Client, error) {
	scheme := runtime.NewScheme()
	if err := v1beta1.AddToScheme(scheme); err != nil {
		return nil, fmt.Errorf("make client: %w", err)
	}
	c := rest.CopyConfig(cfg)
	c.GroupVersion, c.APIPath = &v1beta1.GroupVersion, "/apis"
	c.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	c.ContentType, c.AcceptContentTypes = runtime.ContentTypeJSON, runtime.ContentTypeJSON // no protobuf for custom resources
	if c.UserAgent == "" {
		c.UserAgent = rest.DefaultKubernetesUserAgent()
	}
	r, err := rest.RESTClientFor(c)
	if err != nil {
		return nil, fmt.Errorf("make client: %w", err)
	}
	return &Client{rest: r, codec: runtime.NewParameterCodec(scheme)}, nil
}

// REST is the client below, for informers.
func (c *Client) REST() rest.Interface { return c.rest }

// Modules of one namespace; "" is all of them, for lists and watches.
func (c *Client) Modules(namespace string) *Modules {
	return gentype.NewClientWithList("modules", c.rest, c.codec, namespace,
		func() *v1beta1.Module { return &v1beta1.Module{} },
		func() *v1beta1.ModuleList { return &v1beta1.ModuleList{} })
}

// NodeModulesConfigs of the cluster.
func (c *Client) NodeModulesConfigs() *NodeModulesConfigs {
	return gentype.NewClientWithList("nodemodulesconfigs", c.rest, c.codec, "",
		func() *v1beta1.NodeModulesConfig { return &v1beta1.NodeModulesConfig{} },
		func() *v1beta1.NodeModulesConfigList { return &v1beta1.NodeModulesConfigList{} })
}
