// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// link stands between the registry and who pulls. It counts what is pulled,
// and may be as slow as a real one: all connections share rate, what is sent
// arrives half a round trip later, and a connection takes one to be made.
type link struct {
	rate   int64         // bytes per second towards the puller; 0 is as fast as it goes
	rtt    time.Duration // there and back
	target string        // address of the registry

	addr     string
	fetched  atomic.Int64 // bytes given to the puller
	mu       sync.Mutex   // guards the fields below
	free     time.Time    // when the line has sent what it was given
	listener net.Listener
}

// How much waits in the line itself, and in the puller's socket: what is there
// when the puller goes away was paid for and counts.
const (
	linkChunk  = 16 << 10
	linkSocket = 128 << 10
)

// up starts to listen; at the same address as before after a down.
func (l *link) up() error {
	addr := l.addr
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	l.mu.Lock()
	l.listener, l.addr = listener, listener.Addr().String()
	l.mu.Unlock()
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			go l.serve(c.(*net.TCPConn))
		}
	}()
	return nil
}

// down stops to listen: who comes now is refused.
func (l *link) down() error { return l.listener.Close() }

func (l *link) serve(puller *net.TCPConn) {
	defer puller.Close()
	time.Sleep(l.rtt)
	c, err := net.Dial("tcp", l.target)
	if err != nil {
		return
	}
	registry := c.(*net.TCPConn)
	defer registry.Close()
	_ = puller.SetWriteBuffer(linkSocket)
	go func() {
		_, _ = l.carry(registry, puller, 0)
		_ = registry.CloseWrite()
	}()
	_, _ = l.carry(puller, registry, l.rate)
}

// carry copies from one connection to the other, and counts what goes to the
// puller.
func (l *link) carry(to, from *net.TCPConn, rate int64) (int64, error) {
	if l.rtt == 0 && l.rate == 0 {
		if to.RemoteAddr().String() == l.target {
			return io.Copy(to, from)
		}
		return l.count(to, from)
	}
	type piece struct {
		data []byte
		due  time.Time
	}
	line := make(chan piece, max(1, int(l.rate*int64(l.rtt)/int64(time.Second))/linkChunk))
	go func() {
		defer close(line)
		for {
			b := make([]byte, linkChunk)
			n, err := from.Read(b)
			if n > 0 {
				line <- piece{b[:n], l.send(n, rate)}
			}
			if err != nil {
				return
			}
		}
	}()
	var total int64
	var failed error
	for p := range line {
		if failed != nil {
			continue
		}
		time.Sleep(time.Until(p.due))
		n, err := to.Write(p.data)
		total += int64(n)
		if rate > 0 {
			l.fetched.Add(int64(n))
		}
		if failed = err; err != nil {
			_ = from.Close()
		}
	}
	return total, failed
}

// count copies a piece at a time, inside the kernel.
func (l *link) count(to, from *net.TCPConn) (int64, error) {
	var total int64
	for {
		n, err := io.CopyN(to, from, linkSocket)
		l.fetched.Add(n)
		if total += n; err != nil {
			return total, err
		}
	}
}

// send waits until the line takes n more bytes and returns when they arrive.
func (l *link) send(n int, rate int64) time.Time {
	now := time.Now()
	if rate == 0 {
		return now.Add(l.rtt / 2)
	}
	l.mu.Lock()
	if l.free.Before(now) {
		l.free = now
	}
	l.free = l.free.Add(time.Duration(n) * time.Second / time.Duration(rate))
	free := l.free
	l.mu.Unlock()
	time.Sleep(time.Until(free) - time.Millisecond) // the clock of the sleeper is no better
	return free.Add(l.rtt / 2)
}
