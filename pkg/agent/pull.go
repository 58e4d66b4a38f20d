// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"github.com/kmm-node/kmmd/pkg/images"
	"github.com/kmm-node/kmmd/pkg/kmod"
	"github.com/kmm-node/kmmd/pkg/spec"
)

// pullGrace is how long a look waits for images, all together. What takes longer
// is got beside it: a registry that hangs keeps no other Module waiting, and the
// next look but one goes on with what has come.
const pullGrace = 3 * time.Second

// pull gets the image of a Module beside the reconciling goroutine.
type pull struct {
	module spec.Module
	image  string
	host   *kmod.Tree // where it is looked for what the image does not have
	cancel context.CancelFunc
	done   chan struct{} // closed at the end
	left   atomic.Bool   // no look waits for it: its end is a hint

	// To be read once done is closed.
	tree *images.Tree
	from *sources
	err  error
}

// image gets the files of a Module's choice for the running kernel: a pull that is
// done, or nil while that takes longer than the look may wait.
func (a *Agent) image(ctx context.Context, m *spec.Module, choice *spec.Choice, grace <-chan struct{}) *pull {
	p := a.pulls[m.Key()]
	if p != nil && !p.answers(m) {
		p.cancel()
		p = nil
	}
	if p == nil {
		p = a.startPull(ctx, m, choice)
	}
	select {
	case <-p.done:
	case <-grace:
	case <-ctx.Done():
	}
	p.left.Store(true)
	select {
	case <-p.done:
		delete(a.pulls, m.Key())
		return p
	default:
		return nil
	}
}

// answers says whether what is pulled is what m asks for.
func (p *pull) answers(m *spec.Module) bool {
	r := resolution{module: p.module, fail: &failure{}}
	return r.answers(m)
}

// startPull begins to get an image. Of several Modules with one image the first
// gets it, and the others find it in the store.
func (a *Agent) startPull(ctx context.Context, m *spec.Module, choice *spec.Choice) *pull {
	a.finishPins() // room may be made for this one
	var before <-chan struct{}
	for _, other := range a.pulls {
		if other.image == choice.Image {
			before = other.done
		}
	}
	p := &pull{module: *m, image: choice.Image, host: a.host, done: make(chan struct{})}
	digest := a.settledOn(m)
	ctx, p.cancel = context.WithCancel(ctx)
	a.pulls[m.Key()] = p
	a.pulling.Go(func() {
		defer p.cancel()
		if before != nil {
			select {
			case <-before:
			case <-ctx.Done():
			}
		}
		p.tree, p.from, p.err = a.fetch(ctx, &p.module, choice, digest, a.cfg.Kernel.Release(), p.host)
		if digest != "" && withoutIt(p.err) {
			p.tree, p.from, p.err = a.fetch(ctx, &p.module, choice, "", a.cfg.Kernel.Release(), p.host)
		}
		close(p.done)
		if p.left.Load() {
			a.Trigger()
		}
	})
	return p
}

// settledOn is the digest of the image that runs for this very document since it was obeyed in this boot; "" when there is
// none, and its tag has to be asked for.
func (a *Agent) settledOn(m *spec.Module) string {
	if s := a.ledger.Settled[m.Key()]; s.Document == documentHash(m) {
		return s.Digest
	}
	return ""
}

// withoutIt says whether an image can not be had any more, or not be used, so that what its tag stands for by now is all there is.
func withoutIt(err error) bool {
	return errors.Is(err, images.ErrNotFound) || errors.Is(err, images.ErrNotCached) || errors.Is(err, images.ErrPolicy)
}

// settle notes which image runs for an owner's document; any other document, and the same one later, ask for the tag anew. So
// does one whose image is only what the store had, because nobody was asked.
func (a *Agent) settle(owner string) (changed bool) {
	r := a.resolved[owner]
	if r == nil || r.tree == nil || r.tree.Stale {
		return false
	}
	now := settled{r.document, r.tree.Digest}
	changed = a.ledger.Settled[owner] != now
	a.ledger.Settled[owner] = now
	return changed
}

// documentHash stands for what a document asks for.
func documentHash(m *spec.Module) string { return hashOf(m.Spec) }

// forgetPulls ends those that nobody wants any more.
func (a *Agent) forgetPulls(wanted map[string]bool) {
	for key, p := range a.pulls {
		if !wanted[key] {
			p.cancel()
			delete(a.pulls, key)
		}
	}
}

// toResolve says whether it is time to look at a Module's files, though nobody
// asks for others.
func (a *Agent) toResolve(r *resolution) bool {
	if !r.pending {
		return r.damaged || r.fail != nil && r.fail.due() || hostGrew(r)
	}
	select {
	case <-a.pulls[r.module.Key()].done:
		return true
	default:
		return false
	}
}

// hostGrew says whether a module that was nowhere, to be loaded or to be replaced, may be among the node's own by now: a
// package has changed them since the tree was read in which it was not found.
func hostGrew(r *resolution) bool {
	missing := r.fail != nil && r.fail.reason == spec.ReasonModuleNotFound
	if r.want != nil {
		missing = missing || slices.ContainsFunc(r.want.Remove, func(name string) bool { return r.inTree[name] == nil && !r.builtin[name] })
	}
	return missing && r.host != nil && r.host.Changed()
}

// pullsOn says whether images are being got that a look has not waited for.
func (a *Agent) pullsOn() bool {
	for _, r := range a.resolved {
		if r.pending {
			return true
		}
	}
	return false
}
