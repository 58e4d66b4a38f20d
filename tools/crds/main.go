// SPDX-License-Identifier: Apache-2.0

// Command crds writes the CustomResourceDefinitions of pkg/api into deploy/crd.
// It is controller-gen, used as a library, with five differences:
//
//   - Types of other packages (Volume, EnvVar, Toleration, …) lose their
//     descriptions: with them Module does not fit in the annotation of 262144
//     bytes in which kubectl apply keeps what was applied. Ours all stay, whole.
//   - Strings of other packages' types that our rules read get a maximal length,
//     without which the API server takes the rules for too expensive.
//   - Times and quantities are no more than what the types of Go can read: one object
//     with another would keep whoever watches its kind from all of them.
//   - NodeModulesConfig's spec has no rules: it is a copy of Modules that passed
//     them, and a node must get what is right for it also when another Module's
//     copy is older than a rule.
//   - PreflightValidation is served as v1beta1 too, with the schema of v1beta2. For
//     what people write they are the same, so that no webhook is needed to turn
//     one into the other.
//
// It runs in its own directory, by go generate in pkg/api/v1beta1.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/tools/go/packages"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-tools/pkg/crd"
	crdmarkers "sigs.k8s.io/controller-tools/pkg/crd/markers"
	"sigs.k8s.io/controller-tools/pkg/loader"
	"sigs.k8s.io/controller-tools/pkg/markers"
	"sigs.k8s.io/yaml"
)

const (
	root     = "../.."
	apiDir   = "pkg/api"
	outDir   = "deploy/crd"
	core     = "k8s.io/api/core/v1"
	maxBytes = 200 << 10 // far enough from what kubectl apply can keep
)

// lengths are what other packages' types allow at most; Kubernetes itself
// takes no longer ones in these fields.
var lengths = map[string]map[string]int64{
	"Toleration":           {"key": 317, "operator": 16, "value": 63, "effect": 32},
	"HostPathVolumeSource": {"path": 4096},
}

// The API server takes more for a time than time.Parse does ("2026-01-01t00:00:00z", an offset of 99 hours), and
// controller-gen more for a quantity than resource.ParseQuantity ("1e1.5").
const (
	timePattern     = `^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$`
	quantityPattern = `^[+-]?([0-9]{1,32}(\.[0-9]{0,32})?|\.[0-9]{1,32})([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]{1,2})?$`
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "crds:", err)
		os.Exit(1)
	}
}

func run() error {
	roots, err := loader.LoadRootsWithConfig(&packages.Config{Dir: root}, "./"+apiDir+"/v1beta1", "./"+apiDir+"/v1beta2")
	if err != nil {
		return fmt.Errorf("load %s: %w", apiDir, err)
	}
	registry := &markers.Registry{}
	if err := crdmarkers.Register(registry); err != nil {
		return fmt.Errorf("register markers: %w", err)
	}
	parser := &crd.Parser{
		Collector: &markers.Collector{Registry: registry},
		Checker:   &loader.TypeChecker{NodeFilters: []loader.NodeFilter{crd.Generator{}.CheckFilter()}},
	}
	crd.AddKnownTypes(parser)
	for _, pkg := range roots {
		parser.NeedPackage(pkg)
	}
	kinds := crd.FindKubeKinds(parser, crd.FindMetav1(roots))
	for _, kind := range kinds {
		for pkg, version := range parser.GroupVersions {
			typ := crd.TypeIdent{Package: pkg, Name: kind.Kind}
			if _, has := parser.Types[typ]; has && version.Group == kind.Group {
				parser.NeedSchemaFor(typ)
			}
		}
	}
	if err := adaptForeign(parser, roots); err != nil {
		return err
	}
	for _, kind := range kinds {
		parser.NeedCRDFor(kind, nil)
		// Of the imports only what is needed was read, so types can not be checked.
		if loader.PrintErrors(roots, packages.TypeError) {
			return fmt.Errorf("read the types and markers of %s", apiDir)
		}
		if err := write(parser, kind); err != nil {
			return err
		}
	}
	return nil
}

// adaptForeign works on the schemas of single types, before they are put into
// each other.
func adaptForeign(parser *crd.Parser, ours []*loader.Package) error {
	missing := len(lengths)
	for typ, s := range parser.Schemata {
		if slices.Contains(ours, typ.Package) {
			continue
		}
		dropDescriptions(&s)
		if limits := lengths[typ.Name]; limits != nil && typ.Package.PkgPath == core {
			missing--
			for name, n := range limits {
				field, ok := s.Properties[name]
				if !ok {
					return fmt.Errorf("limit %s.%s: there is no such field", typ.Name, name)
				}
				setLength(parser, typ, &field, n)
				s.Properties[name] = field
			}
		}
		parser.Schemata[typ] = s
	}
	if missing > 0 {
		return fmt.Errorf("limit strings: %d of the types are not used any more", missing)
	}
	return nil
}

// setLength limits a field. One of a named string type is a reference, and gets
// what that says in its place.
func setLength(parser *crd.Parser, typ crd.TypeIdent, field *apiextensionsv1.JSONSchemaProps, n int64) {
	if field.Ref != nil {
		*field = apiextensionsv1.JSONSchemaProps{Type: "string"}
	}
	field.MaxLength = &n
}

func dropDescriptions(s *apiextensionsv1.JSONSchemaProps) {
	crd.EditSchema(s, visitor(func(s *apiextensionsv1.JSONSchemaProps) { s.Description = "" }))
}

func dropRules(s *apiextensionsv1.JSONSchemaProps) {
	crd.EditSchema(s, visitor(func(s *apiextensionsv1.JSONSchemaProps) { s.XValidations = nil }))
}

// readable limits what strings say to what Go reads.
func readable(s *apiextensionsv1.JSONSchemaProps) {
	switch {
	case s.Format == "date-time":
		s.Pattern = timePattern
	case s.XIntOrString && s.Pattern != "":
		s.Pattern = quantityPattern
	}
}

// visitor is done with each schema inside one, and with itself.
type visitor func(*apiextensionsv1.JSONSchemaProps)

// Visit is what crd.EditSchema calls, with nil at the end of each level.
func (v visitor) Visit(s *apiextensionsv1.JSONSchemaProps) crd.SchemaVisitor {
	if s != nil {
		v(s)
	}
	return v
}

func write(parser *crd.Parser, kind schema.GroupKind) error {
	c := parser.CustomResourceDefinitions[kind]
	crd.FixTopLevelMetadata(c)
	for _, version := range c.Spec.Versions {
		crd.EditSchema(version.Schema.OpenAPIV3Schema, visitor(readable))
		if kind.Kind == "NodeModulesConfig" {
			spec := version.Schema.OpenAPIV3Schema.Properties["spec"]
			dropRules(&spec)
			version.Schema.OpenAPIV3Schema.Properties["spec"] = spec
		}
	}
	if kind.Kind == "PreflightValidation" {
		c.Spec.Versions = append(c.Spec.Versions, asV1beta1(c.Spec.Versions[0]))
	}
	content, err := encode(c)
	if err != nil {
		return fmt.Errorf("encode %s: %w", c.Name, err)
	}
	if len(content) > maxBytes {
		return fmt.Errorf("write %s: %d bytes, more than %d: kubectl apply would refuse it", c.Name, len(content), maxBytes)
	}
	name := filepath.Join(root, outDir, c.Spec.Group+"_"+c.Spec.Names.Plural+".yaml")
	if err := os.WriteFile(name, content, 0o644); err != nil {
		return fmt.Errorf("write %s: %w", c.Name, err)
	}
	return nil
}

// asV1beta1 is the version under the name it had before.
func asV1beta1(v apiextensionsv1.CustomResourceDefinitionVersion) apiextensionsv1.CustomResourceDefinitionVersion {
	warning := "write kmm.sigs.x-k8s.io/v1beta2; what was found is in status.modules, not in status.crStatuses"
	v.Name, v.Storage, v.Deprecated, v.DeprecationWarning = "v1beta1", false, true, &warning
	return v
}

// encode leaves out what only the server writes.
func encode(c apiextensionsv1.CustomResourceDefinition) ([]byte, error) {
	raw, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	var object map[string]any
	if err := json.Unmarshal(raw, &object); err != nil {
		return nil, err
	}
	delete(object, "status")
	delete(object["metadata"].(map[string]any), "creationTimestamp")
	content, err := yaml.Marshal(object)
	if err != nil {
		return nil, err
	}
	header := "# SPDX-License-Identifier: Apache-2.0\n# Made by make gen out of pkg/api.\n---\n"
	return append([]byte(header), content...), nil
}
