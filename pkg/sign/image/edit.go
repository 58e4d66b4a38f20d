// SPDX-License-Identifier: Apache-2.0

package image

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/kmm-node/kmmd/pkg/images"
)

// What a signed image says of itself, in annotations of its manifest.
const (
	AnnotationBase        = "org.opencontainers.image.base.digest"           // image-spec, annotations.md: the image before
	AnnotationCertificate = "kmm.node.kubernetes.io/sign.certificate.sha256" // of a signed image: of the certificate, in DER, of whoever signed its files
	AnnotationHash        = "kmm.node.kubernetes.io/sign.hash"               // of a signed image: which hash its signatures have
)

// object is a JSON object of which only some members are of interest: the others
// stay as they are.
type object map[string]json.RawMessage

func parseObject(raw []byte) (object, error) {
	var o object
	if err := json.Unmarshal(raw, &o); err != nil || o == nil {
		return nil, fmt.Errorf("%w: no JSON object where one has to be", images.ErrUnsafe)
	}
	return o, nil
}

// get reads a member that has to be there.
func (o object) get(name string, into any) error {
	if err := json.Unmarshal(o[name], into); err != nil {
		return fmt.Errorf("%w: read %q: %w", images.ErrUnsafe, name, err)
	}
	return nil
}

func (o object) set(name string, value any) {
	raw, err := json.Marshal(value)
	if err != nil {
		panic("image: " + name + " does not marshal: " + err.Error())
	}
	o[name] = raw
}

// annotate says in a manifest or index what it was made of, and by whom. Docker's own
// formats have no annotations.
func (r *resigner) annotate(doc object, mediaType types.MediaType, base v1.Hash) error {
	if mediaType == types.DockerManifestSchema2 || mediaType == types.DockerManifestList {
		return nil
	}
	var all map[string]string
	if doc["annotations"] != nil {
		if err := doc.get("annotations", &all); err != nil {
			return err
		}
	}
	if all == nil {
		all = map[string]string{}
	}
	all[AnnotationBase] = base.String()
	all[AnnotationCertificate] = r.certificate()
	all[AnnotationHash] = r.signer.HashName()
	doc.set("annotations", all)
	return nil
}

// certificate is the SHA-256 of the signer's certificate.
func (r *resigner) certificate() string {
	sum := sha256.Sum256(r.signer.Certificate().Raw)
	return hex.EncodeToString(sum[:])
}

// config is the configuration of an image with the layer appended, whose base has so
// many. The time in the history is the one the image was made: no clock is read.
func (r *resigner) config(raw []byte, l *layer, base v1.Hash, layers int) ([]byte, error) {
	doc, err := parseObject(raw)
	if err != nil {
		return nil, err
	}
	var root object
	var diffIDs []string
	if err := doc.get("rootfs", &root); err != nil {
		return nil, err
	}
	if err := root.get("diff_ids", &diffIDs); err != nil {
		return nil, err
	}
	if len(diffIDs) != layers {
		return nil, fmt.Errorf("%w: its configuration knows %d layers, its manifest %d", images.ErrUnsafe, len(diffIDs), layers)
	}
	root.set("diff_ids", append(diffIDs, l.diffID()))
	doc.set("rootfs", root)
	var history []json.RawMessage
	if doc["history"] != nil {
		if err := doc.get("history", &history); err != nil {
			return nil, err
		}
	}
	entry := object{}
	if created := doc["created"]; created != nil {
		entry["created"] = created
	}
	entry.set("created_by", "kmmd sign image")
	entry.set("comment", fmt.Sprintf("%d files signed, certificate sha256:%s, hash %s, base %s", l.files, r.certificate(), r.signer.HashName(), base))
	doc.set("history", append(history, mustMarshal(entry)))
	return json.Marshal(doc)
}

func mustMarshal(o object) json.RawMessage {
	holder := object{}
	holder.set("", o)
	return holder[""]
}
