// SPDX-License-Identifier: Apache-2.0

package reference

import (
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/kmm-node/kmmd/test/reference/markdown"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
	"github.com/kmm-node/kmmd/pkg/api/v1beta2"
	"github.com/kmm-node/kmmd/pkg/spec"
)

const (
	apiV1beta1 = "pkg/api/v1beta1"
	apiV1beta2 = "pkg/api/v1beta2"
	modulePage = "module.md"
)

// definition reads the CustomResourceDefinition of a plural name.
func (c *Code) definition(plural string) (*Definition, error) {
	return ReadDefinition(filepath.Join(c.root, "deploy/crd/kmm.sigs.x-k8s.io_"+plural+".yaml"))
}

// Module is docs/reference/module.md.
func (c *Code) Module() (string, error) {
	d, err := c.definition("modules")
	if err != nil {
		return "", err
	}
	source, err := c.Package(apiV1beta1)
	if err != nil {
		return "", err
	}
	p := newPage("Module", apiV1beta1+", and pkg/spec for what a node does with it")
	p.paragraph("The same document is an object of a cluster, which hands it to its nodes, and a file in `modules_dir` of a node, in YAML or, with the " +
		"same names, in TOML. A field that is *honoured* counts in both. One that is *ignored* counts in a cluster only: in a file its type is checked, and " +
		"nothing depends on it. Any other field is an error.")
	p.definition(d)
	p.paragraph(fmt.Sprintf("`metadata` has `name` and `namespace`, which is `%s` in a file that does not say it: together at most %d characters. Of its other "+
		"fields a node reads `annotations`: see [names](names.md#annotations).", spec.DefaultNamespace, v1beta1.MaxNameLength))
	o := object{page: p, source: source, markHead: "on a node", mark: onNode}
	root := &d.Spec.Versions[0].Schema.Root
	if err := o.write("spec", reflect.TypeFor[v1beta1.ModuleSpec](), root.Properties["spec"]); err != nil {
		return "", err
	}
	o.markHead, o.mark = "", nil
	if err := o.write("status", reflect.TypeFor[v1beta1.ModuleStatus](), root.Properties["status"]); err != nil {
		return "", err
	}
	return p.String(), nil
}

// onNode says whether a field of a Module, by its path, means something in a
// document on a node.
func onNode(at string) (string, error) {
	t := reflect.TypeFor[spec.Module]()
	for _, name := range strings.Split(strings.ReplaceAll(at, "[]", ""), ".") {
		for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
			t = t.Elem()
		}
		if t.Kind() != reflect.Struct {
			return "", fmt.Errorf("%s: pkg/spec does not know it: a node would refuse a Module that has it", at)
		}
		i := slices.IndexFunc(reflect.VisibleFields(t), func(f reflect.StructField) bool {
			own, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			return own == name
		})
		if i < 0 {
			return "", fmt.Errorf("%s: pkg/spec does not know it: a node would refuse a Module that has it", at)
		}
		f := t.Field(i)
		if f.Tag.Get("node") == "ignored" {
			return "ignored", nil
		}
		t = f.Type
	}
	return "honoured", nil
}

// ClusterObjects is docs/reference/cluster-objects.md.
func (c *Code) ClusterObjects() (string, error) {
	p := newPage("NodeModulesConfig and PreflightValidation", apiV1beta1+" and "+apiV1beta2)
	p.paragraph("The [Module](" + modulePage + ") has a page of its own.")
	for _, one := range []struct {
		plural, dir  string
		spec, status reflect.Type
		kind         reflect.Type
	}{
		{"nodemodulesconfigs", apiV1beta1, reflect.TypeFor[v1beta1.NodeModulesConfigSpec](), reflect.TypeFor[v1beta1.NodeModulesConfigStatus](), reflect.TypeFor[v1beta1.NodeModulesConfig]()},
		{"preflightvalidations", apiV1beta2, reflect.TypeFor[v1beta2.PreflightValidationSpec](), reflect.TypeFor[v1beta2.PreflightValidationStatus](), reflect.TypeFor[v1beta2.PreflightValidation]()},
	} {
		d, err := c.definition(one.plural)
		if err != nil {
			return "", err
		}
		source, err := c.Package(one.dir)
		if err != nil {
			return "", err
		}
		name := d.Spec.Names.Kind
		p.heading(2, "%s", name)
		p.paragraph(meaning(Constant{Name: name, Doc: source.Doc(one.kind.Name())}))
		p.definition(d)
		o := object{page: p, source: source, level: 3, before: name + " ", elsewhere: map[reflect.Type]string{
			reflect.TypeFor[v1beta1.ModuleLoaderSpec](): modulePage + "#" + markdown.Anchor("spec.moduleLoader"),
		}}
		root := &d.Spec.Versions[0].Schema.Root
		if err := o.write("spec", one.spec, root.Properties["spec"]); err != nil {
			return "", err
		}
		if err := o.write("status", one.status, root.Properties["status"]); err != nil {
			return "", err
		}
	}
	return p.String(), nil
}

// definition says how an object is asked for.
func (p *page) definition(d *Definition) {
	var versions []string
	for _, v := range d.Spec.Versions {
		text := code(d.Spec.Group + "/" + v.Name)
		if v.DeprecationWarning != "" {
			text += ", which is deprecated (" + prose(v.DeprecationWarning) + ")"
		}
		versions = append(versions, text)
	}
	shown, wide := []string{}, []string{}
	for _, c := range d.Spec.Versions[0].Columns {
		if c.Priority == 0 {
			shown = append(shown, c.Name)
		} else {
			wide = append(wide, c.Name)
		}
	}
	text := fmt.Sprintf("%s. %s; `kubectl get %s`", strings.Join(versions, "; also "),
		map[string]string{"Namespaced": "In a namespace", "Cluster": "Of the cluster, in no namespace"}[d.Spec.Scope], d.Spec.Names.Plural)
	if len(d.Spec.Names.ShortNames) > 0 {
		text += fmt.Sprintf(" or `kubectl get %s`", d.Spec.Names.ShortNames[0])
	}
	text += fmt.Sprintf(" shows %s", strings.Join(shown, ", "))
	if len(wide) > 0 {
		text += fmt.Sprintf("; with `-o wide` also %s", strings.Join(wide, ", "))
	}
	p.paragraph(text + ".")
}
