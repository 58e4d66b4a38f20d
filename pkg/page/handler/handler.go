// SPDX-License-Identifier: Apache-2.0

// Package handler serves the pages of package page. It only reads, keeps what it
// has made for a moment, and knows nothing of where the facts come from.
package handler

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/kmm-node/kmmd/pkg/page"
)

// keep is how long facts are shown again: many who look cost as much as one.
const keep = 2 * time.Second

// What a query may ask for.
const (
	minRefresh = 5
	maxRefresh = 3600
	maxQuery   = 4096 // bytes
)

// Path is where the first page is; the others are below it.
const Path = "/status"

// Source gives the facts. An error is for people: why there are none here, and
// where there are.
type Source func() (page.Cluster, error)

type handler struct {
	source Source
	html   *page.HTML
	policy string

	mu       sync.Mutex // guards what follows
	cluster  *page.Cluster
	overview *page.Overview
	read     time.Time
}

// New makes a handler of Path and everything below it. source is called by one
// goroutine at a time, and not more often than once in two seconds.
func New(source Source) http.Handler {
	sum := sha256.Sum256([]byte(page.Style()))
	h := &handler{source: source, html: page.NewHTML()}
	h.policy = "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) +
		"'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+Path, h.first)
	mux.HandleFunc("GET "+Path+"/module", h.module)
	mux.HandleFunc("GET "+Path+"/", func(w http.ResponseWriter, _ *http.Request) {
		h.problem(w, http.StatusNotFound, "No such page", "There is nothing at this address.", "../status")
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.headers(w)
		if len(r.URL.RawQuery) > maxQuery {
			h.problem(w, http.StatusRequestURITooLong, "No such page", "The address is too long.", "")
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// headers: nothing may be loaded, run, framed or kept.
func (h *handler) headers(w http.ResponseWriter) {
	for k, v := range map[string]string{
		"Content-Security-Policy":      h.policy,
		"X-Content-Type-Options":       "nosniff",
		"Referrer-Policy":              "no-referrer",
		"Cache-Control":                "no-store",
		"Cross-Origin-Opener-Policy":   "same-origin",
		"Cross-Origin-Resource-Policy": "same-origin",
		"X-Frame-Options":              "DENY",
	} {
		w.Header().Set(k, v)
	}
}

func (h *handler) first(w http.ResponseWriter, r *http.Request) {
	_, o, err := h.facts()
	if err != nil {
		h.nothing(w, err, "")
		return
	}
	refresh := 0
	if n, err := strconv.Atoi(r.URL.Query().Get("refresh")); err == nil && n > 0 {
		refresh = min(max(n, minRefresh), maxRefresh)
	}
	var b bytes.Buffer
	h.send(w, http.StatusOK, &b, h.html.Overview(&b, o, refresh))
}

func (h *handler) module(w http.ResponseWriter, r *http.Request) {
	c, _, err := h.facts()
	if err != nil {
		h.nothing(w, err, "../status")
		return
	}
	q := r.URL.Query()
	p, ok := page.NewModulePage(c, page.Filter{
		Namespace: q.Get("namespace"), Name: q.Get("name"), State: q.Get("state"), Kernel: q.Get("kernel"),
		Reason: q.Get("reason"), After: q.Get("after"),
	})
	if !ok {
		h.problem(w, http.StatusNotFound, "No such Module", "There is no Module "+q.Get("namespace")+"/"+q.Get("name")+".", "../status")
		return
	}
	var b bytes.Buffer
	h.send(w, http.StatusOK, &b, h.html.Module(&b, &p))
}

// facts are those of now or of a moment ago. Nobody may change them.
func (h *handler) facts() (*page.Cluster, *page.Overview, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.cluster != nil && time.Since(h.read) < keep {
		return h.cluster, h.overview, nil
	}
	c, err := h.source()
	if err != nil {
		h.cluster, h.overview = nil, nil
		return nil, nil, err
	}
	o := page.NewOverview(&c)
	h.cluster, h.overview, h.read = &c, &o, time.Now()
	return h.cluster, h.overview, nil
}

func (h *handler) nothing(w http.ResponseWriter, err error, back string) {
	w.Header().Set("Retry-After", "5")
	h.problem(w, http.StatusServiceUnavailable, "Nothing to show here", err.Error(), back)
}

func (h *handler) problem(w http.ResponseWriter, code int, title, text, back string) {
	var b bytes.Buffer
	h.send(w, code, &b, h.html.Problem(&b, title, text, back))
}

// send answers with a page that is complete.
func (h *handler) send(w http.ResponseWriter, code int, b *bytes.Buffer, err error) {
	if err != nil {
		http.Error(w, "the page could not be made", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(b.Len()))
	w.WriteHeader(code)
	_, _ = w.Write(b.Bytes()) // who has gone away needs no answer
}
