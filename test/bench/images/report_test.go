// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestTable(t *testing.T) {
	i := &image{name: "large", layers: []*layer{
		{meta: layerMeta{Size: 400e6, Unpacked: 900e6}}, {meta: layerMeta{Size: 10e6, Unpacked: 40e6}}, {meta: layerMeta{Size: 20e6, Unpacked: 20e6}},
	}}
	runs := func(seconds ...float64) (out []figures) {
		for _, s := range seconds {
			out = append(out, figures{Wall: time.Duration(s * float64(time.Second)), CPU: time.Second, RSS: 16 << 20, Fetched: 33e6, Written: 70e6})
		}
		return out
	}
	var out strings.Builder
	table(&out, "loopback", []row{
		{tool{name: "slow", peer: true}, i, runs(30, 20, 90)}, {tool{name: "slower", peer: true}, i, runs(40, 40, 40)},
		{tool{name: "ours"}, i, runs(0.5, 3, 1)}, {tool{name: "modules", modulesOnly: true}, i, runs(1, 1, 1)},
	})
	assert.Contains(t, out.String(), "430 MB compressed, 960 MB unpacked. The layer with the modules has 10.0 MB, the one above it, with firmware, 20.0 MB.")
	assert.Contains(t, out.String(), "| slow | 30.00 | 20.00-90.00 | 1.00 | 16.0 | 33.0 | 70 |  | 1.10 |\n")
	assert.Contains(t, out.String(), "| ours | 1.00 | 0.50-3.00 | 1.00 | 16.0 | 33.0 | 70 | 30.0 | 1.10 |\n")
	assert.Contains(t, out.String(), "| modules | 1.00 | 1.00-1.00 | 1.00 | 16.0 | 33.0 | 70 | 30.0 | 3.30 |\n")
}

// TestLink: what goes through arrives whole, is counted, and no faster than the
// line allows.
func TestLink(t *testing.T) {
	const size = 1 << 20
	server, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer server.Close()
	go func() {
		for {
			c, err := server.Accept()
			if err != nil {
				return
			}
			_, _ = io.CopyN(io.Discard, c, 4)
			_, _ = c.Write(make([]byte, size))
			c.Close()
		}
	}()
	for name, l := range map[string]*link{
		"counts": {}, "slow": {rate: 10 * size, rtt: 20 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			l.target = server.Addr().String()
			require.NoError(t, l.up())
			start := time.Now()
			c, err := net.Dial("tcp", l.addr)
			require.NoError(t, err)
			_, err = c.Write([]byte("GET "))
			require.NoError(t, err)
			b, err := io.ReadAll(c)
			require.NoError(t, err)
			assert.Len(t, b, size)
			assert.Equal(t, int64(size), l.fetched.Load())
			if l.rate > 0 {
				assert.GreaterOrEqual(t, time.Since(start), 100*time.Millisecond+2*l.rtt)
			}
			require.NoError(t, l.down())
			_, err = net.Dial("tcp", l.addr)
			require.Error(t, err)
			require.NoError(t, l.up(), "at the same address again")
			require.NoError(t, l.down())
		})
	}
}
