// SPDX-License-Identifier: Apache-2.0

// Package source joins what a node is asked for by files and by the cluster to
// one wish. It reads neither.
package source

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"sync"

	"github.com/kmm-node/kmmd/pkg/spec"
)

// Merge gives what files and the cluster ask for together. A Module that both have
// is the file's: whoever can write it has the node in his hands anyway, and a
// repair on the spot must not wait for the cluster. The cluster's is refused.
// cluster is nil while it has not been heard; nothing is unloaded for being absent
// then.
func Merge(files spec.Node, cluster *spec.Node) spec.Node {
	out := files
	if cluster == nil {
		out.Partial = true
		return out
	}
	out.Generation = cluster.Generation
	out.Partial = files.Partial || cluster.Partial
	out.Modules = append([]spec.Module{}, files.Modules...)
	out.Refused = append(append([]spec.Refused{}, files.Refused...), cluster.Refused...)
	out.Invalid = append(append([]error{}, files.Invalid...), cluster.Invalid...)
	from := map[string]string{}
	for i := range files.Modules {
		from[files.Modules[i].Key()] = files.Modules[i].File
	}
	for i := range cluster.Modules {
		m := &cluster.Modules[i]
		file, twice := from[m.Key()]
		if !twice {
			out.Modules = append(out.Modules, *m)
			continue
		}
		out.Refused = append(out.Refused, spec.Refused{
			Namespace: m.Metadata.Namespace, Name: m.Metadata.Name, Revision: m.Revision, Reason: spec.ReasonConflict,
			Message: fmt.Sprintf("the node has a document of its own for %s in %s, and that one counts: remove one of the two", m.Key(), file),
		})
	}
	return out
}

// Joint passes on what both sides ask for, whenever one of them speaks. Files are
// waited for, since they are always there; the cluster is not.
type Joint struct {
	set func(spec.Node)

	mu             sync.Mutex // guards both, and the order of calls to set
	files, cluster *spec.Node
	mine           map[string]string // files of Modules, by key, as they were when all could be read
}

// NewJoint has set called with each new wish. It must not block.
func NewJoint(set func(spec.Node)) *Joint { return &Joint{set: set, mine: map[string]string{}} }

// Files is what files ask for now.
func (j *Joint) Files(n spec.Node) { j.say(&j.files, n) }

// Cluster is what the cluster asks for now.
func (j *Joint) Cluster(n spec.Node) { j.say(&j.cluster, n) }

func (j *Joint) say(side **spec.Node, n spec.Node) {
	j.mu.Lock()
	defer j.mu.Unlock()
	*side = &n
	if j.files != nil {
		j.set(Merge(*j.files, j.leave(j.cluster)))
	}
}

// leave takes out of the cluster's Modules those that a document had which can not be read now: what runs for it stays.
func (j *Joint) leave(cluster *spec.Node) *spec.Node {
	if len(j.files.Invalid) == 0 {
		j.mine = map[string]string{}
	}
	read := map[string]bool{}
	for i := range j.files.Modules {
		m := &j.files.Modules[i]
		j.mine[m.Key()], read[m.Key()] = m.File, true
	}
	if cluster == nil || len(j.files.Invalid) == 0 {
		return cluster
	}
	out := *cluster
	out.Modules = nil
	out.Refused = append([]spec.Refused{}, cluster.Refused...)
	for i := range cluster.Modules {
		m := &cluster.Modules[i]
		file, had := j.mine[m.Key()]
		if !had || read[m.Key()] || !slices.ContainsFunc(j.files.Invalid, func(err error) bool { return about(err, file) }) {
			out.Modules = append(out.Modules, *m)
			continue
		}
		out.Refused = append(out.Refused, spec.Refused{
			Namespace: m.Metadata.Namespace, Name: m.Metadata.Name, Revision: m.Revision, Reason: spec.ReasonConflict,
			Message: fmt.Sprintf("the node has a document of its own for %s in %s, which can not be read now: what runs stays", m.Key(), file),
		})
	}
	return &out
}

// about says whether an error is of a file, or of all that are there: not of another one.
func about(err error, file string) bool {
	var document *spec.Problem
	if errors.As(err, &document) {
		return document.File == file
	}
	var path *fs.PathError
	return !errors.As(err, &path) || path.Path == file || path.Path == filepath.Dir(file)
}
