// SPDX-License-Identifier: Apache-2.0

package chromium

import (
	"encoding/json"
	"time"

	"github.com/stretchr/testify/require"
)

// Go loads a page, and forgets what went wrong on the one before.
func (b *Browser) Go(url string) {
	b.t.Helper()
	loaded := make(chan struct{})
	b.mu.Lock()
	b.wrong, b.asked = nil, nil
	b.heard["Page.loadEventFired"] = loaded
	b.mu.Unlock()
	var answer struct{ ErrorText string }
	b.Do("Page.navigate", map[string]any{"url": url}, &answer)
	require.Empty(b.t, answer.ErrorText, url)
	select {
	case <-loaded:
	case <-time.After(patience):
		b.t.Fatalf("%s: not loaded after %s", url, patience)
	}
}

// Wrong is what the console, the network or a script has had to say since Go.
func (b *Browser) Wrong() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]string(nil), b.wrong...)
}

// Asked are the addresses that were asked for since Go.
func (b *Browser) Asked() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]string(nil), b.asked...)
}

// Header is sent with each request from now on.
func (b *Browser) Header(name, value string) {
	b.t.Helper()
	b.Do("Network.setExtraHTTPHeaders", map[string]any{"headers": map[string]string{name: value}}, nil)
}

// Media has the person prefer something, as "prefers-color-scheme": "dark".
func (b *Browser) Media(feature, value string) {
	b.t.Helper()
	b.Do("Emulation.setEmulatedMedia", map[string]any{"features": []any{map[string]string{"name": feature, "value": value}}}, nil)
}

// Eval is what an expression of JavaScript gives, read into result. The page
// itself may run none.
func (b *Browser) Eval(expression string, result any) {
	b.t.Helper()
	var answer struct {
		Result           struct{ Value json.RawMessage }
		ExceptionDetails json.RawMessage
	}
	b.Do("Runtime.evaluate", map[string]any{"expression": expression, "returnByValue": true}, &answer)
	require.Empty(b.t, string(answer.ExceptionDetails), expression)
	require.NoError(b.t, json.Unmarshal(answer.Result.Value, result), expression)
}

// Press presses a key: Tab, Enter, or " ".
func (b *Browser) Press(key string) {
	b.t.Helper()
	k := map[string]struct {
		code int
		text string
	}{"Tab": {9, ""}, "Enter": {13, "\r"}, " ": {32, " "}}[key]
	require.NotZero(b.t, k.code, key)
	down := map[string]any{"type": "keyDown", "key": key, "code": key, "windowsVirtualKeyCode": k.code}
	if k.text != "" {
		down["text"] = k.text
	}
	b.Do("Input.dispatchKeyEvent", down, nil)
	b.Do("Input.dispatchKeyEvent", map[string]any{"type": "keyUp", "key": key, "code": key, "windowsVirtualKeyCode": k.code}, nil)
}

// Thing is what a screen reader is given.
type Thing struct {
	Role, Name string
	// Level of a heading.
	Level int
}

// Things are what a screen reader is given of the page, in its order.
func (b *Browser) Things() []Thing {
	b.t.Helper()
	var tree struct {
		Nodes []struct {
			Ignored    bool
			Role, Name struct{ Value any }
			Properties []struct {
				Name  string
				Value struct{ Value any }
			}
		}
	}
	b.Do("Accessibility.getFullAXTree", nil, &tree)
	var out []Thing
	for _, n := range tree.Nodes {
		if n.Ignored {
			continue
		}
		var t Thing
		t.Role, _ = n.Role.Value.(string)
		t.Name, _ = n.Name.Value.(string)
		for _, p := range n.Properties {
			if level, ok := p.Value.Value.(float64); ok && p.Name == "level" {
				t.Level = int(level)
			}
		}
		out = append(out, t)
	}
	return out
}
