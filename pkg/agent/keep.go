// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/kmm-node/kmmd/pkg/images"
	"github.com/kmm-node/kmmd/pkg/spec"
)

// Keeper is a store whose images go away when nobody needs them: *images.Store.
type Keeper interface {
	Pin(owner string, digests ...string) error
	List() ([]images.Stored, error)
	Prune(o images.PruneOptions) (freed int64, removed []images.Stored, err error)
	Usage() (images.Usage, error)
}

// keepImages pins what runs, what is wanted and what a failed upgrade goes back
// to, lets go of the rest, and now and then removes what nothing has used for
// long. Its failures are logged: the worst is a store that grows to its quota.
func (a *Agent) keepImages(desired *spec.Node, s spec.Status) {
	if a.cfg.Keeper == nil {
		return
	}
	a.finishPins() // what they write is older
	for owner, digests := range a.pins(s) {
		a.pin(owner, digests)
	}
	a.unpin(desired, s)
	if time.Since(a.pruned) < a.cfg.Resync {
		return
	}
	a.pruned = time.Now()
	freed, removed, err := a.cfg.Keeper.Prune(images.PruneOptions{Unused: a.cfg.KeepUnused})
	if err != nil {
		a.cfg.Log.Error("prune images", "err", err)
	}
	for i := range removed {
		a.cfg.Log.Info("image removed: unused for long", "image", removed[i].Refs, "digest", removed[i].Digest)
	}
	if len(removed) > 0 {
		a.cfg.Log.Info("images pruned", "freed", freed)
	}
}

// pin keeps exactly these images for an owner; without any, none. It may be
// called by any goroutine.
func (a *Agent) pin(owner string, digests []string) {
	if a.cfg.Keeper == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if old, known := a.pinned[owner]; known && slices.Equal(old, digests) {
		return
	}
	if err := a.cfg.Keeper.Pin(owner, digests...); err != nil {
		a.cfg.Log.Error("pin images", "owner", owner, "err", err)
		return
	}
	a.pinned[owner] = digests
	if len(digests) == 0 {
		delete(a.pinned, owner)
	}
}

// pinSoon has writePins keep an image beside what the owner has.
func (a *Agent) pinSoon(owner, digest string) {
	if a.cfg.Keeper == nil {
		return
	}
	digests := []string{digest}
	for _, d := range a.ledger.Images[owner] {
		if d != digest {
			digests = append(digests, d)
		}
	}
	a.toPin = append(a.toPin, toPin{owner, digests})
	if a.pullsOn() || a.cfg.Prestage {
		a.writePins() // room may be made at any moment
	}
}

// toPin is what an owner is to keep.
type toPin struct {
	owner   string
	digests []string
}

// writePins begins to write what pinSoon was told. That takes longer than most loads, and so comes after them: nothing
// is removed before a.pinning has come to its end, and no pull, which may make room, begins before.
func (a *Agent) writePins() {
	for _, p := range a.toPin {
		a.pinning.Go(func() { a.pin(p.owner, p.digests) })
	}
	a.toPin = nil
}

// finishPins waits until all is written that pinSoon was told.
func (a *Agent) finishPins() {
	a.writePins()
	a.pinning.Wait()
}

// pins are the digests each owner needs: the image that is wanted; while that
// does not run yet, the ones before too; else the last one before, which an
// operator may want back. An owner that has no image now keeps what it had.
func (a *Agent) pins(s spec.Status) map[string][]string {
	pins := map[string][]string{}
	changed := false
	for i := range s.Modules {
		m := &s.Modules[i]
		before := a.ledger.Images[m.Key()]
		if m.Digest == "" {
			continue
		}
		now := []string{m.Digest}
		for _, d := range before {
			if !slices.Contains(now, d) && (m.State != spec.StateLoaded || len(now) < 2) {
				now = append(now, d)
			}
		}
		pins[m.Key()] = now
		if m.State == spec.StateLoaded && !slices.Equal(before, now) {
			a.ledger.Images[m.Key()] = now
			changed = true
		}
	}
	if changed {
		a.save()
	}
	return pins
}

func (a *Agent) forgetPins(owner string) {
	a.mu.Lock()
	a.pinned[owner] = []string{""} // whatever it was
	a.mu.Unlock()
	a.pin(owner, nil)
}

// unpin lets go of the images of Modules that are gone, also of those that went
// while kmmd was not there, and of kernels that are.
func (a *Agent) unpin(desired *spec.Node, s spec.Status) {
	if !desired.Complete() {
		return // who knows what is wanted
	}
	if !a.swept {
		list, err := a.cfg.Keeper.List()
		if err != nil {
			a.cfg.Log.Error("list images", "err", err)
			return
		}
		a.swept = true
		a.mu.Lock()
		for i := range list {
			for _, owner := range list[i].PinnedBy {
				if _, known := a.pinned[owner]; !known {
					a.pinned[owner] = nil
				}
			}
		}
		a.mu.Unlock()
	}
	needed := map[string]bool{}
	for i := range desired.Modules {
		needed[desired.Modules[i].Key()] = true
	}
	for i := range desired.Refused {
		needed[desired.Refused[i].Key()] = true
	}
	for i := range s.Leaving {
		needed[s.Leaving[i].Key()] = true
	}
	installed, err := a.otherKernels()
	if err != nil {
		a.cfg.Log.Error("images of other kernels stay", "err", err)
		return
	}
	changed := false
	a.mu.Lock()
	owners := slices.Sorted(maps.Keys(a.pinned))
	a.mu.Unlock()
	for _, owner := range owners {
		key, kernel, staged := strings.Cut(owner, "@")
		if needed[key] && (!staged || slices.Contains(installed, kernel)) {
			continue
		}
		a.forgetPins(owner)
		if _, known := a.ledger.Images[owner]; known {
			delete(a.ledger.Images, owner)
			changed = true
		}
	}
	if changed {
		a.save()
	}
}
