// SPDX-License-Identifier: Apache-2.0

package source_test

import (
	"errors"
	"io/fs"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/kmm-node/kmmd/pkg/source"
	"github.com/kmm-node/kmmd/pkg/spec"
)

func module(name, file, revision string) spec.Module {
	return spec.Module{Metadata: spec.Metadata{Namespace: "ns", Name: name}, File: file, Revision: revision}
}

func TestMerge(t *testing.T) {
	bad := errors.New("bad")
	refused := spec.Refused{Namespace: "ns", Name: "r", Revision: "r9", Reason: spec.ReasonInvalid}
	conflict := spec.Refused{Namespace: "ns", Name: "a", Revision: "r1", Reason: spec.ReasonConflict,
		Message: "the node has a document of its own for ns/a in a.yaml, and that one counts: remove one of the two"}
	files := spec.Node{Modules: []spec.Module{module("a", "a.yaml", "")}, Invalid: []error{bad}}
	for _, tt := range []struct {
		name    string
		cluster *spec.Node
		want    spec.Node
	}{
		{"nobody has heard the cluster", nil, spec.Node{Modules: files.Modules, Invalid: files.Invalid, Partial: true}},
		{"it asks for nothing", &spec.Node{}, spec.Node{Modules: files.Modules, Refused: []spec.Refused{}, Invalid: files.Invalid}},
		{"both", &spec.Node{Generation: 3, Modules: []spec.Module{module("a", "", "r1"), module("b", "", "r2")}, Refused: []spec.Refused{refused}},
			spec.Node{Generation: 3, Modules: []spec.Module{files.Modules[0], module("b", "", "r2")}, Refused: []spec.Refused{refused, conflict}, Invalid: files.Invalid}},
	} {
		t.Run(tt.name, func(t *testing.T) { assert.Equal(t, tt.want, source.Merge(files, tt.cluster)) })
	}
}

func TestJoint(t *testing.T) {
	var got []spec.Node
	j := source.NewJoint(func(n spec.Node) { got = append(got, n) })
	j.Cluster(spec.Node{Generation: 1})
	assert.Empty(t, got, "files are there at once")
	j.Files(spec.Node{Modules: []spec.Module{module("a", "a.yaml", "")}})
	j.Cluster(spec.Node{Generation: 2})
	j.Files(spec.Node{})
	assert.Len(t, got, 3)
	assert.EqualValues(t, 1, got[0].Generation)
	assert.Len(t, got[1].Modules, 1, "each side stays as it was last")
	assert.Empty(t, got[2].Modules)
	assert.EqualValues(t, 2, got[2].Generation)

	j = source.NewJoint(func(n spec.Node) { got = append(got, n) })
	j.Files(spec.Node{})
	assert.True(t, got[3].Partial)
}

// TestUnreadableDocument: while a document can not be read, the cluster's Module of that name does not take its place.
func TestUnreadableDocument(t *testing.T) {
	var got spec.Node
	j := source.NewJoint(func(n spec.Node) { got = n })
	names := func() (modules, refused []string) {
		for i := range got.Modules {
			modules = append(modules, got.Modules[i].Metadata.Name+" "+got.Modules[i].File)
		}
		for i := range got.Refused {
			refused = append(refused, got.Refused[i].Name)
		}
		return modules, refused
	}
	j.Cluster(spec.Node{Modules: []spec.Module{module("nic", "", "r1"), module("gpu", "", "r2")}})
	j.Files(spec.Node{Modules: []spec.Module{module("nic", "/docs/nic.yaml", "")}})
	typo := spec.Node{Invalid: []error{&spec.Problem{File: "/docs/nic.yaml", Message: "typo"}}}
	for range 2 {
		j.Files(typo)
		modules, refused := names()
		assert.Equal(t, []string{"gpu "}, modules)
		assert.Equal(t, []string{"nic"}, refused)
		assert.Contains(t, got.Refused[0].Message, "ns/nic in /docs/nic.yaml, which can not be read now")
	}
	j.Files(spec.Node{Modules: []spec.Module{module("nic", "/docs/nic.yaml", "")}})
	modules, _ := names()
	assert.Equal(t, []string{"nic /docs/nic.yaml", "gpu "}, modules)
	j.Files(spec.Node{Invalid: []error{&fs.PathError{Op: "open", Path: "/docs", Err: fs.ErrPermission}}})
	modules, _ = names()
	assert.Equal(t, []string{"gpu "}, modules, "nothing there can be read")
	j.Files(spec.Node{Invalid: []error{&spec.Problem{File: "/docs/other.yaml", Message: "typo"}}})
	modules, refused := names()
	assert.Equal(t, []string{"nic ", "gpu "}, modules, "it is gone: the cluster's counts")
	assert.Empty(t, refused)
	j.Files(spec.Node{})
	j.Files(typo)
	modules, _ = names()
	assert.Equal(t, []string{"nic ", "gpu "}, modules, "and is no longer remembered")
}
