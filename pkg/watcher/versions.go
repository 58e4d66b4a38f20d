// SPDX-License-Identifier: Apache-2.0

package watcher

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kmm-node/kmmd/pkg/build"
)

// dockerfileKey is the key of a Dockerfile in its ConfigMap.
const dockerfileKey = "dockerfile"

// fresh is how long the version of a ConfigMap or Secret is taken for the current
// one. They are read by name: the right to watch them would be one to all there
// are.
const fresh = 10 * time.Second

// versions remembers what the objects that go into images were last.
type versions struct {
	mu   sync.Mutex // guards seen
	seen map[string]seenVersion
}

type seenVersion struct {
	text        string
	hostModules bool     // it is a Dockerfile that looks at those of its node
	secrets     []string // what must not be told of a Secret
	at          time.Time
}

// errMissing says that an object which a Module names is not there.
type errMissing struct{ what string }

func (e *errMissing) Error() string { return e.what + " is not there" }

// of gives the version of an object: it changes when the content does, and not
// when somebody labels it.
func (v *versions) of(id string, read func() (uid types.UID, data map[string][]byte, err error)) (seenVersion, error) {
	v.mu.Lock()
	known, ok := v.seen[id]
	v.mu.Unlock()
	if ok && time.Since(known.at) < fresh {
		return known, nil
	}
	uid, data, err := read()
	if apierrors.IsNotFound(err) {
		return seenVersion{}, &errMissing{id}
	}
	if err != nil {
		return seenVersion{}, fmt.Errorf("read %s: %w", id, err)
	}
	now := seenVersion{text: contentVersion(uid, data), hostModules: build.WantsHostModules(string(data[dockerfileKey])), at: time.Now()}
	if uid != "" {
		now.secrets = linesOf(data)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.seen == nil {
		v.seen = map[string]seenVersion{}
	}
	maps.DeleteFunc(v.seen, func(_ string, old seenVersion) bool { return time.Since(old.at) > time.Hour })
	v.seen[id] = now
	return now, nil
}

// minSecret is the length of what conceal looks for, in bytes; a shorter line is in any text.
const minSecret = 6

// linesOf are the lines of content that could be secret each by itself.
func linesOf(data map[string][]byte) []string {
	var out []string
	for _, content := range data {
		for line := range bytes.Lines(content) {
			if line = bytes.TrimSpace(line); len(line) >= minSecret && utf8.Valid(line) {
				out = append(out, string(line))
			}
		}
	}
	return out
}

// conceal takes out of a text what is in Secrets of its namespace that go into images: a program that builds one may
// print them, and the last lines of its log are told in places that more people can read.
func (v *versions) conceal(namespace, text string) string {
	for _, secret := range v.secrets(namespace) {
		text = strings.ReplaceAll(text, secret, concealed)
	}
	return text
}

// concealLog does so with a log that begins or ends where the kubelet has cut it, maybe within a Secret.
func (v *versions) concealLog(namespace, text string) string {
	begin, end := 0, 0 // how much of the text is a part of a Secret
	// A character that the cut went through is no character of the Secret any more.
	broken := func(r rune) bool { return r == '?' || r == utf8.RuneError }
	fromLeft, fromRight := strings.TrimLeftFunc(text, broken), strings.TrimRightFunc(text, broken)
	for _, secret := range v.secrets(namespace) {
		for n := min(len(secret), len(text)); n >= minSecret; n-- {
			if strings.HasPrefix(fromLeft, secret[len(secret)-n:]) {
				begin = max(begin, len(text)-len(fromLeft)+n)
			}
			if strings.HasSuffix(fromRight, secret[:n]) {
				end = max(end, len(text)-len(fromRight)+n)
			}
		}
	}
	switch {
	case begin+end == 0:
		return v.conceal(namespace, text)
	case begin+end >= len(text):
		return concealed
	}
	inner := v.conceal(namespace, text[begin:len(text)-end])
	if begin > 0 {
		inner = concealed + inner
	}
	if end > 0 {
		inner += concealed
	}
	return inner
}

const concealed = "[…]"

// secrets are the lines that must not be told, longer ones first: another Secret may have a part of one.
func (v *versions) secrets(namespace string) []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	var out []string
	for id, known := range v.seen {
		if strings.HasPrefix(id, secretID(namespace, "")) {
			out = append(out, known.secrets...)
		}
	}
	slices.SortFunc(out, func(a, b string) int { return cmp.Compare(len(b), len(a)) })
	return out
}

// unread gives one of the Secrets whose content is not known, "" when there is none.
func (v *versions) unread(namespace string, secrets []string) string {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, name := range secrets {
		if _, ok := v.seen[secretID(namespace, name)]; !ok {
			return name
		}
	}
	return ""
}

// secretID is a Secret's among what has been read.
func secretID(namespace, name string) string { return "Secret " + key(namespace, name) }

// contentVersion stands for content. The UID, which nobody can guess, keeps it
// from telling anything about a short secret.
func contentVersion(uid types.UID, data map[string][]byte) string {
	h := sha256.New()
	fmt.Fprintf(h, "%q", uid)
	for _, k := range slices.Sorted(maps.Keys(data)) {
		fmt.Fprintf(h, "%q%q", k, data[k])
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// addVersions reads the ConfigMaps and Secrets that go into an image. *errMissing
// is one that is not there.
func (w *Watcher) addVersions(ctx context.Context, r *build.Request) error {
	configMaps, secrets := r.Needs()
	r.Versions = map[string]string{}
	core, namespace := w.cfg.Kube.CoreV1(), r.Namespace
	for _, name := range configMaps {
		seen, err := w.versions.of(fmt.Sprintf("ConfigMap %s/%s", namespace, name), func() (types.UID, map[string][]byte, error) {
			c, err := core.ConfigMaps(namespace).Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				return "", nil, err
			}
			data := maps.Clone(c.BinaryData)
			for k, v := range c.Data {
				if data == nil {
					data = map[string][]byte{}
				}
				data[k] = []byte(v)
			}
			return "", data, nil // the same content made anew is the same
		})
		if err != nil {
			return err
		}
		r.Versions["configmap/"+name], r.HostModules = seen.text, seen.hostModules
	}
	for _, name := range secrets {
		seen, err := w.versions.of(secretID(namespace, name), func() (types.UID, map[string][]byte, error) {
			s, err := core.Secrets(namespace).Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				return "", nil, err
			}
			return s.UID, s.Data, nil
		})
		if err != nil {
			return err
		}
		r.Versions["secret/"+name] = seen.text
	}
	return nil
}
