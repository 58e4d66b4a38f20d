// SPDX-License-Identifier: Apache-2.0

// Package chromium drives Debian's Chromium, without a window, as a person with a
// keyboard or a screen reader would. Tests only.
package chromium

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// patience is how long one command may take, on a machine that does other things.
const patience = 60 * time.Second

// Browser is a Chromium that runs, with one page.
//
// It is spoken to by the DevTools protocol over a pipe
// (https://chromedevtools.github.io/devtools-protocol/, --remote-debugging-pipe):
// JSON, each message ended by a zero byte.
type Browser struct {
	t       testing.TB
	to      io.WriteCloser
	session string

	mu      sync.Mutex // guards what follows
	next    int
	waiting map[int]chan message
	heard   map[string]chan struct{} // events that somebody waits for
	wrong   []string
	asked   []string
	broken  error
}

type message struct {
	ID     int             `json:"id,omitempty"`
	Method string          `json:"method,omitempty"`
	Params json.RawMessage `json:"params,omitempty"`
	Result json.RawMessage `json:"result,omitempty"`
	Error  *struct {
		Message string `json:"message"`
	} `json:"error,omitempty"`
	Session string `json:"sessionId,omitempty"`
}

// Start starts a browser that ends with the test. It fails the test where there is
// none: test/vm/setup installs it.
func Start(t testing.TB) *Browser {
	t.Helper()
	path, err := exec.LookPath("chromium")
	require.NoError(t, err, "make setup installs chromium")
	theirs, to, err := os.Pipe()
	require.NoError(t, err)
	from, ours, err := os.Pipe()
	require.NoError(t, err)
	cmd := exec.Command(path, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--window-size=1280,900",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--ignore-certificate-errors",
		"--remote-debugging-pipe", "--user-data-dir="+t.TempDir(), "about:blank")
	cmd.ExtraFiles = []*os.File{theirs, ours}             // 3: commands, 4: answers and events
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // it ends when the pipe does
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
	require.NoError(t, cmd.Start())
	theirs.Close()
	ours.Close()
	b := &Browser{t: t, to: to, waiting: map[int]chan message{}, heard: map[string]chan struct{}{}}
	done := make(chan struct{})
	go func() { defer close(done); b.listen(from) }()
	t.Cleanup(func() {
		to.Close()
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait() // killed
		from.Close()
		<-done
	})
	b.open()
	return b
}

// open makes the page and asks to hear what goes wrong on it.
func (b *Browser) open() {
	b.t.Helper()
	var target struct{ TargetID string }
	b.Do("Target.createTarget", map[string]any{"url": "about:blank"}, &target)
	var attached struct{ SessionID string }
	b.Do("Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &attached)
	b.session = attached.SessionID
	for _, domain := range []string{"Page", "Runtime", "Log", "Network", "Accessibility", "DOM"} {
		b.Do(domain+".enable", nil, nil)
	}
}

func (b *Browser) listen(from io.Reader) {
	r := bufio.NewReader(from)
	for {
		data, err := r.ReadBytes(0)
		var m message
		if err == nil {
			err = json.Unmarshal(data[:len(data)-1], &m)
		}
		b.mu.Lock()
		if err != nil {
			b.broken = fmt.Errorf("chromium has gone: %w", err)
			for id, c := range b.waiting {
				delete(b.waiting, id)
				close(c)
			}
			b.mu.Unlock()
			return
		}
		if c := b.waiting[m.ID]; m.ID != 0 && c != nil {
			delete(b.waiting, m.ID)
			c <- m
		} else {
			b.event(m)
		}
		b.mu.Unlock()
	}
}

// event notes what went wrong, and what was asked of servers. The caller has mu.
func (b *Browser) event(m message) {
	if c := b.heard[m.Method]; c != nil {
		delete(b.heard, m.Method)
		close(c)
	}
	switch m.Method {
	case "Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded", "Page.javascriptDialogOpening", "Network.loadingFailed":
		b.wrong = append(b.wrong, m.Method+" "+string(m.Params))
	case "Network.requestWillBeSent":
		var p struct{ Request struct{ URL string } }
		if json.Unmarshal(m.Params, &p) == nil {
			b.asked = append(b.asked, p.Request.URL)
		}
	}
}

// Do sends a command and reads its answer into result, which may be nil.
func (b *Browser) Do(method string, params, result any) {
	b.t.Helper()
	answer := make(chan message, 1)
	b.mu.Lock()
	b.next++
	id := b.next
	b.waiting[id] = answer
	broken := b.broken
	b.mu.Unlock()
	require.NoError(b.t, broken)
	m := map[string]any{"id": id, "method": method}
	if params != nil {
		m["params"] = params
	}
	if b.session != "" {
		m["sessionId"] = b.session
	}
	data, err := json.Marshal(m)
	require.NoError(b.t, err)
	_, err = b.to.Write(append(data, 0))
	require.NoError(b.t, err)
	select {
	case got, ok := <-answer:
		require.True(b.t, ok, "%s: chromium has gone", method)
		require.Nil(b.t, got.Error, "%s %s: %v", method, data, got.Error)
		if result != nil {
			require.NoError(b.t, json.Unmarshal(got.Result, result))
		}
	case <-time.After(patience):
		b.t.Fatalf("%s: no answer after %s", method, patience)
	}
}
