// SPDX-License-Identifier: Apache-2.0

package relay

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var text = strings.Repeat("0123456789", 100)

func TestFaults(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) }))
	defer server.Close()
	tests := []struct {
		name   string
		fault  *Fault
		status int
		body   string
		err    error
	}{
		{"none", nil, 200, text, nil},
		{"late", &Fault{Delay: time.Millisecond}, 200, text, nil},
		{"status", &Fault{Status: 429, Header: map[string]string{"Retry-After": "1"}, Body: "no"}, 429, "no", nil},
		{"reset at once", &Fault{End: Reset}, 0, "", syscall.ECONNRESET},
		{"closed at once", &Fault{End: Close}, 0, "", io.EOF},
		{"hangs at once", &Fault{End: Hang}, 0, "", context.Canceled},
		{"reset in the middle", &Fault{After: 500, End: Reset}, 200, text[:500], syscall.ECONNRESET},
		{"closed in the middle", &Fault{After: 500, End: Close}, 200, text[:500], io.ErrUnexpectedEOF},
		{"hangs in the middle", &Fault{After: 500, End: Hang}, 200, text[:500], context.Canceled},
		{"slow", &Fault{Rate: 100_000}, 200, text, nil},
		{"other bytes", &Fault{Change: bytes.ToUpper}, 200, text, nil},
		{"fewer bytes", &Fault{Change: func(b []byte) []byte { return b[:3] }}, 200, text[:3], nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, err := New("127.0.0.1:0", server.URL)
			require.NoError(t, err)
			defer r.Down()
			r.Break(func(*http.Request) *Fault { return tt.fault })
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			hangs := tt.fault != nil && tt.fault.End == Hang
			if hangs && tt.fault.After == 0 {
				hit := r.Hit()
				go func() { <-hit; cancel() }()
			}
			status, body, err := get(ctx, r, len(tt.body), func() {
				if hangs {
					cancel()
				}
			})
			assert.Equal(t, tt.status, status)
			assert.Equal(t, tt.body, body)
			require.ErrorIs(t, err, tt.err)
			assert.Equal(t, []string{"GET /x?y"}, r.Seen())
			select {
			case <-r.Hit():
				assert.NotNil(t, tt.fault)
			default:
				assert.Nil(t, tt.fault)
			}
		})
	}
}

// get calls then when so many bytes of the body have come.
func get(ctx context.Context, r *Relay, bytes int, then func()) (int, string, error) {
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+r.Address()+"/x?y", nil)
	if err != nil {
		return 0, "", err
	}
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := c.Do(q)
	if err != nil {
		return 0, "", err
	}
	defer answer.Body.Close()
	body := make([]byte, bytes)
	if n, err := io.ReadFull(answer.Body, body); err != nil {
		return answer.StatusCode, string(body[:n]), err
	}
	then()
	rest, err := io.ReadAll(answer.Body)
	return answer.StatusCode, string(body) + string(rest), err
}

func TestDown(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	r, err := New("127.0.0.1:0", server.URL)
	require.NoError(t, err)
	r.Down()
	_, _, err = get(t.Context(), r, 0, func() {})
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
	require.NoError(t, r.Up())
	defer r.Down()
	status, _, err := get(t.Context(), r, 0, func() {})
	require.NoError(t, err)
	assert.Equal(t, 404, status)
}
