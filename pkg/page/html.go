// SPDX-License-Identifier: Apache-2.0

package page

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"time"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
	"github.com/kmm-node/kmmd/pkg/api/v1beta2"
)

//go:embed page.html
var pageHTML string

//go:embed style.css
var style string

// Style is what stands between <style> and </style> of each page, for the hash in
// a Content-Security-Policy.
func Style() string { return style }

// HTML writes pages. Nothing on them is a script or comes from elsewhere.
type HTML struct{ templates *template.Template }

// NewHTML reads the templates, which are part of the program.
func NewHTML() *HTML {
	funcs := template.FuncMap{
		"style":  func() template.CSS { return template.CSS(style) },
		"class":  class,
		"mark":   mark,
		"stamp":  func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
		"people": func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") },
		"many":   many,
		"add":    func(a, b int) int { return a + b },
	}
	return &HTML{template.Must(template.New("").Funcs(funcs).Parse(pageHTML))}
}

// head is what each page has.
type head struct {
	Title   string
	Refresh int // seconds; 0: never
}

// Overview writes the first page, which reads itself again after so many seconds;
// 0 is never.
func (h *HTML) Overview(w io.Writer, o *Overview, refresh int) error {
	return h.write(w, "overview", struct {
		head
		*Overview
	}{head{"Kernel modules", refresh}, o})
}

// Module writes the page of one Module.
func (h *HTML) Module(w io.Writer, p *ModulePage) error {
	return h.write(w, "module", struct {
		head
		*ModulePage
	}{head{p.Namespace + "/" + p.Name + ", kernel modules", 0}, p})
}

// Problem writes a page that says why there is no other. back leads to the first
// page, relative to this one; "" is no link.
func (h *HTML) Problem(w io.Writer, title, text, back string) error {
	return h.write(w, "problem", struct {
		head
		Text, Back string
	}{head{title, 0}, text, back})
}

func (h *HTML) write(w io.Writer, name string, data any) error {
	if err := h.templates.ExecuteTemplate(w, name, data); err != nil {
		return fmt.Errorf("write page: %w", err)
	}
	return nil
}

// class of a state, be it of a node, an image or a validation. Colours only repeat
// what the word and the mark say.
func class(state any) string {
	switch fmt.Sprint(state) {
	case string(Failed), v1beta2.VerificationFailure: // ImageFailed is the same word
		return "bad"
	case string(Changing), string(Waiting), string(Building), string(Leaving), v1beta2.VerificationInProgress:
		return "busy"
	case string(Loaded), v1beta1.ImageReady, v1beta2.VerificationSuccess:
		return "good"
	}
	return "calm"
}

func mark(state any) string {
	return map[string]string{"bad": "✕", "busy": "…", "good": "✓", "calm": "○"}[class(state)]
}

// many counts in words that go with a number.
func many(n int, one, more string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, more)
}
