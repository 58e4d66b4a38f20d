// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"bytes"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/test/faults/relay"
	"github.com/kmm-node/kmmd/test/vm/guest"
)

// ill is a registry in trouble.
type ill struct {
	name   string
	where  string // part of the path of requests that are concerned: manifests, blobs; "" is all
	fault  relay.Fault
	down   bool // nobody listens
	reason string
	waits  bool // kmmd waits for an answer: nothing is reported by then
	heals  bool // kmmd gets over it by itself, though it lasts
}

func answerOf(status int, headers ...string) relay.Fault {
	f := relay.Fault{Status: status, Header: map[string]string{}, Body: `{"errors":[{"code":"DENIED","message":"no"}]}`}
	for i := 0; i < len(headers); i += 2 {
		f.Header[headers[i]] = headers[i+1]
	}
	return f
}

const (
	unreachable  = "Failed ImageUnreachable"
	unauthorized = "Failed ImageUnauthorized"
	invalid      = "Failed ImageInvalid"
	slow         = 1 << 10 // bytes per second
)

func flip(b []byte) []byte {
	if len(b) == 0 {
		return []byte{1}
	}
	b = bytes.Clone(b)
	b[len(b)/2] ^= 1
	return b
}

// otherLayer has a manifest name a layer that nobody has. By a tag no other change can be told from what is meant.
func otherLayer(b []byte) []byte {
	const digest = "sha256:"
	i := bytes.LastIndex(b, []byte(digest))
	if i < 0 {
		return b
	}
	b = bytes.Clone(b)
	first := &b[i+len(digest)]
	if *first == '0' {
		*first = '1'
	} else {
		*first = '0'
	}
	return b
}

func half(b []byte) []byte { return b[:len(b)/2] }

var illnesses = []ill{
	{name: "refuses connections", down: true, reason: unreachable},
	{name: "hangs before it answers", fault: relay.Fault{End: relay.Hang}, waits: true},
	{name: "hangs before a manifest", where: "/manifests/", fault: relay.Fault{End: relay.Hang}, waits: true},
	{name: "hangs before a layer", where: "/blobs/", fault: relay.Fault{End: relay.Hang}, waits: true},
	{name: "hangs in a layer", where: "/blobs/", fault: relay.Fault{After: 1000, End: relay.Hang}, waits: true},
	{name: "resets connections", fault: relay.Fault{End: relay.Reset}, reason: unreachable},
	{name: "resets in a manifest", where: "/manifests/", fault: relay.Fault{After: 100, End: relay.Reset}, reason: unreachable},
	{name: "resets in a layer after each 1000 bytes", where: "/blobs/", fault: relay.Fault{After: 1000, End: relay.Reset}, reason: unreachable},
	{name: "resets in a layer after each 16 kB", where: "/blobs/", fault: relay.Fault{After: 16 << 10, End: relay.Reset}, heals: true},
	{name: "resets at a layer", where: "/blobs/", fault: relay.Fault{End: relay.Reset}, reason: unreachable},
	{name: "ends a layer early", where: "/blobs/", fault: relay.Fault{Change: half}, reason: invalid},
	{name: "401", fault: answerOf(401), reason: unauthorized},
	{name: "401 with a token service that is down", fault: answerOf(401, "WWW-Authenticate", `Bearer realm="http://127.0.0.1:9/token",service="x"`), reason: unreachable},
	{name: "403 for a layer", where: "/blobs/", fault: answerOf(403), reason: unauthorized},
	{name: "404 for the manifest", where: "/manifests/", fault: answerOf(404), reason: "Failed ImageNotFound"},
	{name: "404 for a layer", where: "/blobs/", fault: answerOf(404), reason: "Failed ImageNotFound"},
	{name: "429, Retry-After: 1", fault: answerOf(429, "Retry-After", "1"), reason: unreachable},
	{name: "429, Retry-After: 3600", fault: answerOf(429, "Retry-After", "3600"), reason: unreachable},
	{name: "429 for a layer", where: "/blobs/", fault: answerOf(429), reason: unreachable},
	{name: "500", fault: answerOf(500), reason: unreachable},
	{name: "500 for a layer", where: "/blobs/", fault: answerOf(500), reason: unreachable},
	{name: "503", fault: answerOf(503), reason: unreachable},
	{name: "another page with 200", fault: relay.Fault{Status: 200, Body: "<html>log in</html>"}, reason: invalid},
	{name: "wrong bytes for the manifest", where: "/manifests/", fault: relay.Fault{Change: otherLayer}, reason: "Failed ImageNotFound"},
	{name: "half a manifest", where: "/manifests/", fault: relay.Fault{Change: half}, reason: invalid},
	{name: "wrong bytes for a layer", where: "/blobs/", fault: relay.Fault{Change: flip}, reason: invalid},
	{name: "nothing for a layer", where: "/blobs/", fault: relay.Fault{Change: func([]byte) []byte { return nil }}, reason: invalid},
	{name: "more than a layer", where: "/blobs/", fault: relay.Fault{Change: func(b []byte) []byte { return append(b, 0) }}, reason: invalid},
	{name: "redirects for ever", fault: relay.Fault{Status: 307, Header: map[string]string{"Location": "/v2/again"}}, reason: unreachable},
	{name: "slow as 1 kB/s", fault: relay.Fault{Rate: slow}, waits: true, heals: true},
}

// swapBeside is a swap whose image has to be pulled, beside another Module.
func swapBeside() *scenario {
	base := module{"kmm_base", "kmm_base.ko", ""}
	return &scenario{
		name: "swap beside a neighbour", neighbour: true, pulls: true, moduleName: "dummy", remove: "[dummy, null_blk]",
		from: side{runs: append([]module{base}, inTreeRuns...)}, toImage: soloImage,
		to: side{runs: []module{base, {"dummy", "dummy.ko", "numdummies=2"}}, firmware: soloImage.firmware, held: both},
	}
}

// TestRegistry wants an image of a registry in trouble for a swap. Until it is
// well, all stays as it was, and other Modules are looked after; then the swap has
// to be made.
func TestRegistry(t *testing.T) {
	s := swapBeside()
	for _, i := range illnesses {
		if !full && i.name != "hangs in a layer" && i.name != "wrong bytes for a layer" {
			continue
		}
		t.Run(i.name, func(t *testing.T) {
			defer counts.Case(t, "registry")()
			s.begin(t)
			s.ask(t, nil)
			d := startReady(t)
			t.Cleanup(func() { well(t) })
			i.fall(t)
			s.ask(t, s.toImage)
			if !i.down {
				wait(t, registry.Hit())
			}
			if i.reason != "" {
				d.untilReports(i.reason)
			}
			if !i.heals || i.waits {
				require.NoError(t, isNow(s.from.state(t)))
				requireNeighbour(t, d, s)
			}
			if !i.heals {
				require.NoError(t, isNow(s.from.state(t)))
				well(t)
			}
			d.untilIs(s.to.state(t))
			d.untilReports("Loaded ")
			d.stop()
			s.requireEnd(t)
		})
	}
}

// fall makes the registry ill.
func (i *ill) fall(t *testing.T) {
	t.Helper()
	if i.down {
		registry.Down()
		return
	}
	registry.Break(func(r *http.Request) *relay.Fault {
		if !strings.Contains(r.URL.Path, i.where) {
			return nil
		}
		return &i.fault
	})
}

// well makes it well; connections that hang go on hanging.
func well(t *testing.T) {
	t.Helper()
	registry.Break(nil)
	require.NoError(t, registry.Up())
}

// requireNeighbour removes the neighbour's module, and wants it back while the
// registry is in trouble.
func requireNeighbour(t *testing.T, d *daemon, s *scenario) {
	t.Helper()
	guest.Unload(t, "kmm_base")
	began := time.Now()
	d.until("the neighbour's module comes back", func() error { return isNow(s.from.state(t)) })
	require.Less(t, time.Since(began), 20*time.Second, "the neighbour's module comes back at once")
}

func wait[T any](t *testing.T, ch <-chan T) {
	t.Helper()
	select {
	case <-ch:
	case <-time.After(patience):
		require.Fail(t, "nothing came")
	}
}
