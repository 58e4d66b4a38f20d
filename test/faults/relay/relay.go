// SPDX-License-Identifier: Apache-2.0

// Package relay stands between a client and an HTTP server, and does to the
// answers what a network, a proxy or a server in trouble does. Tests only.
package relay

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"
)

// End is how a body ends before its end.
type End int

const (
	// Reset ends the connection with a TCP reset.
	Reset End = iota + 1
	// Close ends the connection as if all had been said.
	Close
	// Hang says nothing more, and leaves the connection as it is.
	Hang
)

// Fault is what becomes of one answer. The zero Fault passes it on as it is.
type Fault struct {
	Delay  time.Duration // before the server is asked
	Status int           // not 0: the server is not asked; this is the answer, with Header and Body
	Header map[string]string
	Body   string
	After  int64 // bytes of the server's body that are passed on before End …
	End    End   // … which is none when 0
	Rate   int   // bytes per second of the body; 0 is no limit
	Change func(body []byte) []byte
}

// Relay passes requests on. Make it with New.
type Relay struct {
	target  *url.URL
	address string

	mu     sync.Mutex // guards what follows
	server *http.Server
	socket net.Listener
	fault  func(*http.Request) *Fault
	hit    chan struct{} // closed when a fault has been met
	met    bool
	seen   []string
}

// New serves at address, for example "127.0.0.1:5000", for the server at target,
// for example "http://10.0.2.2:1234". The caller closes it.
func New(address, target string) (*Relay, error) {
	u, err := url.Parse(target)
	if err != nil {
		return nil, err
	}
	r := &Relay{target: u, address: address}
	r.Break(nil)
	return r, r.Up()
}

// Address is where it serves.
func (r *Relay) Address() string { return r.address }

// Up serves again after Down, if it does not.
func (r *Relay) Up() error {
	r.mu.Lock()
	up := r.server != nil
	r.mu.Unlock()
	if up {
		return nil
	}
	l, err := net.Listen("tcp", r.address)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.address = l.Addr().String()
	r.socket = l
	r.server = &http.Server{Handler: http.HandlerFunc(r.handle)}
	go func(s *http.Server) { _ = s.Serve(l) }(r.server)
	return nil
}

// Down ends all connections; new ones are refused.
func (r *Relay) Down() {
	r.mu.Lock()
	s, l := r.server, r.socket
	r.server = nil
	r.mu.Unlock()
	if s != nil {
		_ = l.Close() // which the server may not have got to know yet
		_ = s.Close()
	}
}

// Break has requests met by faults from now on: nil, or a nil *Fault for one,
// passes on. Those under way stay as they are.
func (r *Relay) Break(fault func(*http.Request) *Fault) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fault, r.hit, r.met, r.seen = fault, make(chan struct{}), false, nil
}

// Hit is closed when a request has met a fault since Break.
func (r *Relay) Hit() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.hit
}

// Seen are the requests since Break: "GET /v2/".
func (r *Relay) Seen() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.seen
}

func (r *Relay) choose(q *http.Request) Fault {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen = append(r.seen, q.Method+" "+q.URL.RequestURI())
	if r.fault == nil {
		return Fault{}
	}
	f := r.fault(q)
	if f == nil {
		return Fault{}
	}
	if !r.met {
		r.met = true
		close(r.hit)
	}
	return *f
}

func (r *Relay) handle(w http.ResponseWriter, q *http.Request) {
	f := r.choose(q)
	if !wait(q.Context(), f.Delay) {
		return
	}
	if f.Status != 0 {
		for k, v := range f.Header {
			w.Header().Set(k, v)
		}
		w.WriteHeader(f.Status)
		_, _ = io.WriteString(w, f.Body)
		return
	}
	if f.End != 0 && f.After == 0 {
		end(w, q, f.End)
		return
	}
	answer, err := r.ask(q)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	defer answer.Body.Close()
	if f.Change != nil {
		body, _ := io.ReadAll(answer.Body)
		body = f.Change(body)
		answer.Header.Del("Content-Length")
		passHeader(w, answer)
		_, _ = w.Write(body)
		return
	}
	passHeader(w, answer)
	if pass(q.Context(), w, answer.Body, f) && f.End != 0 {
		end(w, q, f.End)
	}
}

func passHeader(w http.ResponseWriter, answer *http.Response) {
	for k, v := range answer.Header {
		w.Header()[k] = v
	}
	w.WriteHeader(answer.StatusCode)
}

// ask passes a request on.
func (r *Relay) ask(q *http.Request) (*http.Response, error) {
	out := q.Clone(q.Context())
	out.URL.Scheme, out.URL.Host, out.RequestURI = r.target.Scheme, r.target.Host, ""
	return http.DefaultTransport.RoundTrip(out)
}

// pass copies a body as fast as it may and as far as it may; cut says that it was
// not to its end.
func pass(ctx context.Context, w http.ResponseWriter, body io.Reader, f Fault) (cut bool) {
	flush := http.NewResponseController(w)
	_ = flush.Flush() // the head, before there is a body
	left := f.After
	buf := make([]byte, 32<<10)
	if f.Rate > 0 {
		buf = buf[:max(1, f.Rate/10)]
	}
	for {
		if f.End != 0 && int64(len(buf)) > left {
			buf = buf[:left]
		}
		if len(buf) == 0 {
			return true
		}
		n, err := body.Read(buf)
		if _, werr := w.Write(buf[:n]); werr != nil {
			return false
		}
		_ = flush.Flush()
		left -= int64(n)
		if err != nil || f.Rate > 0 && !wait(ctx, time.Duration(n)*time.Second/time.Duration(f.Rate)) {
			return false
		}
	}
}

// end ends the connection of a request.
func end(w http.ResponseWriter, q *http.Request, how End) {
	if how == Hang {
		<-q.Context().Done()
		return
	}
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	if tcp, ok := conn.(*net.TCPConn); ok && how == Reset {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}

func wait(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return !errors.Is(ctx.Err(), context.Canceled)
	}
}
