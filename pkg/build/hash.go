// SPDX-License-Identifier: Apache-2.0

package build

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
)

// Hash is 16 hexadecimal digits that stand for what goes into the image: the
// same content needs no second image. How and where it is made (builder, nodes,
// credentials, TLS) changes nothing.
func (r *Request) Hash() string {
	var in struct {
		Namespace, Name, Kernel, Image string
		Dockerfile                     string
		Args                           []v1beta1.BuildArg
		Secrets                        []string
		Key, Cert, Unsigned            string
		Files                          []string
		Rebuild                        *int
		Versions                       map[string]string
	}
	in.Namespace, in.Name, in.Kernel, in.Image, in.Rebuild = r.Namespace, r.Name, r.Kernel, r.Image, r.Rebuild
	if b := r.Build; b != nil {
		in.Dockerfile, in.Args, in.Secrets = b.DockerfileConfigMap, b.Args, b.Secrets
	}
	if s := r.Sign; s != nil {
		in.Key, in.Cert, in.Unsigned, in.Files = s.KeySecret, s.CertSecret, s.UnsignedImage, s.Files
	}
	in.Versions = map[string]string{}
	configMaps, secrets := r.Needs()
	for _, name := range configMaps {
		in.Versions["configmap/"+name] = r.Versions["configmap/"+name]
	}
	for _, name := range secrets {
		in.Versions["secret/"+name] = r.Versions["secret/"+name]
	}
	data, err := json.Marshal(&in) // maps in the order of their keys
	if err != nil {
		panic(fmt.Sprintf("marshal Request: %v", err)) // strings, lists and maps of them
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:8])
}
