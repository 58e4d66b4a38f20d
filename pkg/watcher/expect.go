// SPDX-License-Identifier: Apache-2.0

package watcher

import (
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/util/resourceversion"
)

const configWork = "config/"

// patience is how long a write may take to come back by a watch. After that it is
// taken for lost: the object may have been removed in between.
const patience = time.Minute

// expectations remember what has been written and not yet been seen again. A node
// is not looked at before that: what an informer has would be older than what
// was decided, and the same would be written twice.
type expectations struct {
	mu     sync.Mutex // guards writes
	writes map[string]write
}

type write struct {
	version string // resourceVersion
	at      time.Time
}

// wrote notes the resourceVersion that a write has returned.
func (e *expectations) wrote(kind, name, version string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.writes == nil {
		e.writes = map[string]write{}
	}
	e.writes[kind+name] = write{version, time.Now()}
}

// behind reports whether seen ("" is not there) is older than what was written.
func (e *expectations) behind(kind, name, seen string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	wrote, ok := e.writes[kind+name]
	if !ok {
		return false
	}
	if time.Since(wrote.at) < patience {
		if seen == "" {
			return true
		}
		if c, err := resourceversion.CompareResourceVersion(seen, wrote.version); err == nil && c < 0 {
			return true
		}
	}
	delete(e.writes, kind+name)
	return false
}

// pending reports whether a write has not been seen yet.
func (e *expectations) pending(kind, name string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	_, ok := e.writes[kind+name]
	return ok
}

// forget what was written of an object that is gone.
func (e *expectations) forget(kind, name string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.writes, kind+name)
}
