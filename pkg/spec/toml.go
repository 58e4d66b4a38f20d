// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"errors"
	"fmt"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// parseTOML reads the one document a TOML file holds: the same fields under
// the same names as in YAML.
func parseTOML(file string, data []byte) ([]document, error) {
	d := document{lines: map[string]int{}, line: 1}
	if err := toml.Unmarshal(data, &d.values); err != nil {
		p := &Problem{File: file, Message: strings.TrimPrefix(err.Error(), "toml: ")}
		var de *toml.DecodeError
		if errors.As(err, &de) {
			p.Line, _ = de.Position()
			p.Field = strings.Join(de.Key(), ".")
		}
		return nil, p
	}
	if len(d.values) == 0 {
		return nil, nil
	}
	locateTOML(data, d.lines)
	return []document{d}, nil
}

// locateTOML notes the line of each key. Array tables count up: the second
// [[a.b]] is a.b[1], and [a.b.c] after it is a.b[1].c.
func locateTOML(data []byte, lines map[string]int) {
	var p unstable.Parser
	p.Reset(data)
	counts := map[string]int{}
	table := ""
	for p.NextExpression() {
		e := p.Expression()
		var words []string
		line := 0
		for it := e.Key(); it.Next(); {
			n := it.Node()
			if line == 0 {
				line = p.Shape(n.Raw).Start.Line
			}
			words = append(words, string(n.Data))
		}
		switch e.Kind {
		case unstable.Table:
			table = indexed(words, counts)
			note(lines, table, line)
		case unstable.ArrayTable:
			path := indexed(words[:len(words)-1], counts)
			path = strings.TrimPrefix(path+"."+words[len(words)-1], ".")
			note(lines, path, line)
			table = fmt.Sprintf("%s[%d]", path, counts[path])
			counts[path]++
			note(lines, table, line)
		case unstable.KeyValue:
			path := strings.TrimPrefix(table+"."+strings.Join(words, "."), ".")
			note(lines, path, line)
		}
	}
}

func note(lines map[string]int, path string, line int) {
	if _, ok := lines[path]; !ok {
		lines[path] = line
	}
}

// indexed spells a table's path with the index of every array table on it.
func indexed(words []string, counts map[string]int) string {
	path := ""
	for _, w := range words {
		path = strings.TrimPrefix(path+"."+w, ".")
		if n := counts[path]; n > 0 {
			path = fmt.Sprintf("%s[%d]", path, n-1)
		}
	}
	return path
}
