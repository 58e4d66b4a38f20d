// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"k8s.io/apimachinery/pkg/types"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
	"github.com/kmm-node/kmmd/pkg/spec"
)

// order is what the cluster asks a node for, as it is kept on disk.
type order struct {
	Node       string               `json:"node"`
	UID        types.UID            `json:"uid"`
	Generation int64                `json:"generation"`
	Modules    []v1beta1.NodeModule `json:"modules"`
}

// orderOf is what an object asks for; of Modules that are held, last says what that is.
func orderOf(nmc *v1beta1.NodeModulesConfig, last *order) *order {
	o := &order{Node: nmc.Name, UID: nmc.UID, Generation: nmc.Generation, Modules: nmc.Spec.Modules}
	if last == nil {
		return o
	}
	for _, h := range nmc.Spec.Held {
		is := func(m v1beta1.NodeModule) bool { return m.Namespace == h.Namespace && m.Name == h.Name }
		had := slices.IndexFunc(last.Modules, is)
		if had >= 0 && !slices.ContainsFunc(o.Modules, is) {
			o.Modules = slices.Concat(o.Modules, last.Modules[had:had+1])
		}
	}
	return o
}

// node is the order in the words of pkg/spec. An entry that can not be obeyed
// spoils no other.
func (o *order) node() spec.Node {
	n := spec.Node{Generation: o.Generation}
	for i := range o.Modules {
		e := &o.Modules[i]
		m, err := module(e)
		if err != nil {
			n.Refused = append(n.Refused, spec.Refused{
				Namespace: e.Namespace, Name: e.Name, Revision: e.Revision, Reason: spec.ReasonInvalid, Message: err.Error(),
			})
			continue
		}
		m.Revision, m.PullSecrets = e.Revision, e.PullSecrets
		n.Modules = append(n.Modules, *m)
	}
	return n
}

// module has pkg/spec check an entry as it checks a document.
func module(e *v1beta1.NodeModule) (*spec.Module, error) {
	origin := fmt.Sprintf("Module %s/%s (cluster)", e.Namespace, e.Name)
	data, err := e.Document()
	if err != nil {
		return nil, err
	}
	m, err := spec.ParseJSON(origin, data)
	if err == nil {
		m.Made = spec.MadeBy(e.Made.Digests())
	}
	return m, err
}

// readState gives nil when there is no such file.
func readState(path string) (*order, error) {
	if path == "" {
		return nil, nil
	}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var o order
	if err == nil {
		err = json.Unmarshal(data, &o)
	}
	if err != nil {
		return nil, fmt.Errorf("read last order %s: %w", path, err)
	}
	return &o, nil
}

// writeState replaces the file, so that either the old or the new order is there
// after a crash.
func writeState(path string, o *order) error {
	if path == "" {
		return nil
	}
	data, err := json.Marshal(o)
	if err != nil {
		return fmt.Errorf("write last order: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("write last order: %w", err)
	}
	f, err := os.OpenFile(path+".tmp", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("write last order: %w", err)
	}
	_, err = f.Write(append(data, '\n'))
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		return fmt.Errorf("write last order: %w", err)
	}
	return nil
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
