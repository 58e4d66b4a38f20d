// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

var yamlLine = regexp.MustCompile(`line (\d+): ?`)

// parseYAML reads every document of a stream; empty ones are passed over.
func parseYAML(file string, data []byte) ([]document, error) {
	var docs []document
	dec := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var root yaml.Node
		err := dec.Decode(&root)
		if errors.Is(err, io.EOF) {
			return docs, nil
		}
		if err != nil {
			return nil, yamlProblem(file, err)
		}
		top := root.Content[0]
		if top.Tag == "!!null" {
			continue
		}
		d := document{lines: map[string]int{}, line: top.Line}
		if key := oddKey(top, 0); key != nil {
			return nil, &Problem{File: file, Line: key.Line, Message: fmt.Sprintf("the key %q is not a string: put it in quotes", key.Value)}
		}
		if err := top.Decode(&d.values); err != nil {
			return nil, yamlProblem(file, err)
		}
		locateYAML(top, "", d.lines, 0)
		docs = append(docs, d)
	}
}

// maxDepth bounds how deep a document nests.
const maxDepth = 64

// oddKey finds a key of a mapping that is no string; no field has such a name.
func oddKey(n *yaml.Node, depth int) *yaml.Node {
	for i, c := range n.Content {
		if n.Kind == yaml.MappingNode && i%2 == 0 && (c.Kind != yaml.ScalarNode || c.Tag != "!!str" && c.Tag != "!!merge") {
			return c
		}
		if depth < maxDepth {
			if k := oddKey(c, depth+1); k != nil {
				return k
			}
		}
	}
	return nil
}

func locateYAML(n *yaml.Node, path string, lines map[string]int, depth int) {
	if depth > maxDepth {
		return
	}
	if path != "" {
		if _, ok := lines[path]; !ok {
			lines[path] = n.Line
		}
	}
	switch n.Kind {
	case yaml.AliasNode:
		locateYAML(n.Alias, path, lines, depth+1)
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			key := strings.TrimPrefix(path+"."+n.Content[i].Value, ".")
			lines[key] = n.Content[i].Line
			locateYAML(n.Content[i+1], key, lines, depth+1)
		}
	case yaml.SequenceNode:
		for i, item := range n.Content {
			locateYAML(item, fmt.Sprintf("%s[%d]", path, i), lines, depth+1)
		}
	}
}

func yamlProblem(file string, err error) error {
	var typed *yaml.TypeError
	messages := []string{strings.TrimPrefix(err.Error(), "yaml: ")}
	if errors.As(err, &typed) {
		messages = typed.Errors
	}
	var errs []error
	for _, msg := range messages {
		p := &Problem{File: file, Message: msg}
		if m := yamlLine.FindStringSubmatch(msg); m != nil {
			p.Line, _ = strconv.Atoi(m[1])
			p.Message = yamlLine.ReplaceAllString(msg, "")
		}
		errs = append(errs, p)
	}
	return errors.Join(errs...)
}
