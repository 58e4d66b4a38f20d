// SPDX-License-Identifier: Apache-2.0

package reference

import (
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
)

// labelOf has the functions that make the names of labels.
var labelOf = map[string]func(namespace, name string) string{
	"ReadyLabel":             v1beta1.ReadyLabel,
	"VersionReadyLabel":      v1beta1.VersionReadyLabel,
	"VersionLabel":           v1beta1.VersionLabel,
	"DevicePluginReadyLabel": v1beta1.DevicePluginReadyLabel,
	"DRAReadyLabel":          v1beta1.DRAReadyLabel,
}

// Names is docs/reference/names.md: what kmmd and kmm-watcher call things on objects
// of others.
func (c *Code) Names() (string, error) {
	p := newPage("Labels, annotations, finalizers", "the constants of pkg/")
	p.paragraph("NAMESPACE and NAME are those of a Module. Nobody but kmm-watcher writes these, except where it says so.")
	if err := c.nodeLabels(p); err != nil {
		return "", err
	}
	found, err := c.prefixed()
	if err != nil {
		return "", err
	}
	for _, kind := range []struct{ title, word string }{{"Labels of what is made for a Module", "Label"}, {"Annotations", "Annotation"}, {"Finalizers", "Finalizer"}} {
		var list []Constant
		for _, n := range found {
			if strings.Contains(n.Name, kind.word) {
				list = append(list, n)
			}
		}
		found = slices.DeleteFunc(found, func(n Constant) bool { return strings.Contains(n.Name, kind.word) })
		p.heading(2, "%s", kind.title)
		p.constants("name", list)
	}
	if len(found) > 0 {
		return "", fmt.Errorf("constant %s: is it a Label, an Annotation or a Finalizer? Its name should say so", found[0].Name)
	}
	return p.String(), nil
}

func (c *Code) nodeLabels(p *page) error {
	source, err := c.Package(apiV1beta1)
	if err != nil {
		return err
	}
	p.heading(2, "Labels of nodes")
	var rows [][]string
	for _, f := range source.functions {
		if !strings.HasSuffix(f, "Label") {
			continue
		}
		name := labelOf[f]
		if name == nil {
			return fmt.Errorf("%s makes the name of a label: add it to labelOf", f)
		}
		rows = append(rows, []string{code(name("NAMESPACE", "NAME")), meaning(Constant{Name: f, Doc: source.Doc(f)})})
	}
	if len(rows) != len(labelOf) {
		return fmt.Errorf("of %v only %d are in %s", slices.Sorted(maps.Keys(labelOf)), len(rows), apiV1beta1)
	}
	p.table([]string{"name", "meaning"}, rows)
	return nil
}

// prefixed are all constants below pkg/ whose value begins with our prefix.
func (c *Code) prefixed() ([]Constant, error) {
	var out []Constant
	walked := map[string]bool{}
	err := filepath.WalkDir(filepath.Join(c.root, "pkg"), func(path string, e fs.DirEntry, err error) error {
		if err != nil || skipped(e) {
			if err == nil && e.IsDir() && e.Name() == "testdata" {
				return fs.SkipDir
			}
			return err
		}
		dir, err := filepath.Rel(c.root, filepath.Dir(path))
		if err != nil || walked[dir] {
			return err
		}
		walked[dir] = true
		s, err := c.Package(filepath.ToSlash(dir))
		if err != nil {
			return err
		}
		ours, err := s.choose("names in "+dir, func(n Constant) bool {
			return strings.HasPrefix(n.Value, v1beta1.LabelPrefix) && n.Value != v1beta1.LabelPrefix
		})
		out = append(out, ours...)
		return err
	})
	return out, err
}
