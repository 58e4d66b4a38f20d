// SPDX-License-Identifier: Apache-2.0

package client

import (
	"encoding/json"
	"reflect"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// tolerant decodes an object whose status can not be read as one that has none. A node
// writes the status of its own object, and what the API server takes Go need not read:
// a list or a watch that ended there would be about no other node either.
type tolerant struct {
	runtime.NegotiatedSerializer
	c *Client
}

func (t tolerant) DecoderToVersion(d runtime.Decoder, v runtime.GroupVersioner) runtime.Decoder {
	return tolerantDecoder{t.NegotiatedSerializer.DecoderToVersion(d, v), t.c}
}

type tolerantDecoder struct {
	runtime.Decoder
	c *Client
}

// Decode is that of the Decoder, and is tried again where that fails.
func (d tolerantDecoder) Decode(data []byte, defaults *schema.GroupVersionKind, into runtime.Object) (runtime.Object, *schema.GroupVersionKind, error) {
	object, kind, err := d.Decoder.Decode(data, defaults, into)
	if err == nil {
		return object, kind, nil
	}
	less, ok := d.without(data, err)
	if !ok {
		return object, kind, err
	}
	if into != nil {
		reflect.ValueOf(into).Elem().SetZero() // half of it is there
	}
	return d.Decoder.Decode(less, defaults, into)
}

// without leaves the status out of what could not be decoded, or of those objects of a
// list that can not. It reports false where there is none.
func (d tolerantDecoder) without(data []byte, why error) ([]byte, bool) {
	var fields map[string]json.RawMessage
	if json.Unmarshal(data, &fields) != nil {
		return nil, false
	}
	var items []json.RawMessage
	if fields["items"] != nil && json.Unmarshal(fields["items"], &items) == nil {
		changed := false
		for i, item := range items {
			if _, _, err := d.Decoder.Decode(item, nil, nil); err != nil {
				if less, ok := d.without(item, err); ok {
					items[i], changed = less, true
				}
			}
		}
		less, ok := marshal(fields, "items", items)
		return less, ok && changed
	}
	if fields["status"] == nil {
		return nil, false
	}
	less, ok := marshal(fields, "status", struct{}{})
	if _, _, err := d.Decoder.Decode(less, nil, nil); !ok || err != nil {
		return nil, false // it is not the status
	}
	var named metav1.PartialObjectMetadata
	if json.Unmarshal(less, &named) == nil && d.c.unreadable != nil {
		d.c.unreadable(named.Kind, named.Namespace, named.Name, why)
	}
	return less, true
}

// marshal is fields with another value of one.
func marshal(fields map[string]json.RawMessage, name string, value any) ([]byte, bool) {
	data, err := json.Marshal(value)
	if err != nil {
		return nil, false
	}
	fields[name] = data
	data, err = json.Marshal(fields)
	return data, err == nil
}
