// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"errors"
	"fmt"
	"strings"
)

// ErrInvalid is what every Problem wraps: the document can not be used.
var ErrInvalid = errors.New("invalid document")

// Problem is one thing wrong in a document, told with its place:
//
//	modules.d/nic.yaml:14: spec.moduleLoader.container.kernelMappings[0].regexp: missing closing )
type Problem struct {
	File    string
	Line    int // 1-based; 0 when unknown
	Field   string
	Message string
}

// Error gives file, line, field and what is wrong.
func (p *Problem) Error() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d", p.Line)
	}
	b.WriteString(": ")
	if p.Field != "" {
		b.WriteString(p.Field + ": ")
	}
	b.WriteString(p.Message)
	return b.String()
}

// Unwrap gives ErrInvalid.
func (p *Problem) Unwrap() error { return ErrInvalid }

// finding is a problem or a warning before its file and line are known.
type finding struct{ field, message string }

type findings []finding

func (f *findings) add(field, format string, args ...any) {
	*f = append(*f, finding{field, fmt.Sprintf(format, args...)})
}
