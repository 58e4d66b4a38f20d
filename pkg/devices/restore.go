// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"time"
)

// ErrMissing is returned for an interface that did not come back.
var ErrMissing = errors.New("interface did not come back")

// ErrNoCarrier is returned for an interface that is there, but carries nothing,
// though it did before.
var ErrNoCarrier = errors.New("interface has no carrier")

// poll is how often the kernel is asked while something is waited for.
const poll = 20 * time.Millisecond

// RestoreNetwork waits until the devices of the saved interfaces have interfaces again, and gives those back what they
// had: name, settings of /proc/sys, MAC address, MTU, master, state, then what was stacked on them, addresses, next
// hops, neighbours, routes, rules. An interface that is there gets its own without waiting for the others.
//
// What is there already stays untouched, so it can be run again, also by another process after a crash. What can not be
// given back is part of the returned error, joined, and the rest is given all the same; for an interface that is not
// there when ctx ends that is ErrMissing, for one that was running (IFF_RUNNING) and is not when ctx ends ErrNoCarrier.
// Privilege: CAP_NET_ADMIN, and root for /proc/sys.
func (h *Host) RestoreNetwork(ctx context.Context, n *Network) error {
	ticker := time.NewTicker(poll)
	defer ticker.Stop()
	var err error
	for given := -1; ; {
		missing, idle, lookErr := h.absent(n)
		if there := len(n.Links) - len(missing); lookErr == nil && there != given {
			given = there
			err = h.restore(ctx, n)
			missing, idle, lookErr = h.absent(n)
		}
		if lookErr == nil && len(missing)+len(idle) == 0 {
			return err
		}
		select {
		case <-ticker.C:
			continue
		case <-ctx.Done():
		}
		for _, l := range missing {
			err = errors.Join(err, fmt.Errorf("wait for %s (%s %s): %w: %w", l.Name, l.Bus, l.Address, ErrMissing, context.Cause(ctx)))
		}
		for _, l := range idle {
			err = errors.Join(err, fmt.Errorf("wait for %s (%s %s): %w: %w", l.Name, l.Bus, l.Address, ErrNoCarrier, context.Cause(ctx)))
		}
		return errors.Join(err, lookErr)
	}
}

// absent returns the links that must come by themselves and are not there, and those that are there but not running
// though they were. The kernel marks a link as running up to a second after its carrier came (net/core/link_watch.c).
func (h *Host) absent(n *Network) (missing, idle []savedLink, err error) {
	links, err := h.present()
	if err == nil {
		missing, idle = n.absent(links)
	}
	return missing, idle, err
}

// absent is that for these links.
func (n *Network) absent(links []presentLink) (missing, idle []savedLink) {
	for _, l := range n.Links {
		if !l.hardware() {
			continue
		}
		switch now := n.lookUp(links, l); {
		case now == nil:
			missing = append(missing, l)
		case l.running() && !now.running():
			idle = append(idle, l)
		}
	}
	return missing, idle
}

// presentLink is a link of now with where its device is.
type presentLink struct {
	linkState
	identity
}

func (h *Host) present() ([]presentLink, error) {
	links, err := readLinks()
	list := make([]presentLink, len(links))
	for i, l := range links {
		list[i].linkState = l
		list[i].identity, _ = h.identify(l.Name)
	}
	return list, err
}

// lookUp finds the link that is the saved one, nil when there is none: by name and kind when it has no device; else the
// one of the same device. When a device has several, they are told apart by what the drivers call the port and by their
// MAC addresses, of which the new driver may tell the one or the other differently.
func (n *Network) lookUp(links []presentLink, saved savedLink) *presentLink {
	one := func(is func(presentLink) bool) *presentLink {
		i := slices.IndexFunc(links, is)
		if i < 0 || slices.ContainsFunc(links[i+1:], is) {
			return nil
		}
		return &links[i]
	}
	if !saved.hardware() {
		return one(func(l presentLink) bool { return l.Name == saved.Name && l.Kind == saved.Kind })
	}
	device := func(l identity) bool { return l.Bus == saved.Bus && l.Address == saved.Address }
	port := func(l presentLink) bool { return l.identity == saved.identity && l.Kind == saved.Kind }
	mac := func(l presentLink) bool { return burnedIn(l.linkState) == burnedIn(saved.linkState) }
	for _, is := range []func(presentLink) bool{
		func(l presentLink) bool { return port(l) && mac(l) },
		port,
		func(l presentLink) bool { return device(l.identity) && mac(l) },
	} {
		if l := one(is); l != nil {
			return l
		}
	}
	alone := 0
	for _, l := range n.Links {
		if device(l.identity) {
			alone++
		}
	}
	if alone != 1 {
		return nil
	}
	return one(func(l presentLink) bool { return device(l.identity) })
}

// burnedIn is the MAC address an interface comes with.
func burnedIn(l linkState) string { return cmp.Or(l.PermanentMAC, l.MAC) }

// restorer gives back what is there to take it.
type restorer struct {
	*Host
	*Network
	index map[int]int // of the links: then -> now
	errs  []error
}

func (r *restorer) failed(format string, args ...any) {
	r.errs = append(r.errs, fmt.Errorf(format, args...))
}

// restore gives back all it can now.
func (h *Host) restore(ctx context.Context, n *Network) error {
	r := &restorer{Host: h, Network: n, index: map[int]int{}}
	if err := r.rename(); err != nil {
		return err
	}
	for _, l := range n.Links {
		if err := r.link(l); err != nil {
			r.errs = append(r.errs, err)
		}
	}
	r.masters()
	const add = syscall.NLM_F_CREATE | syscall.NLM_F_EXCL
	state, err := h.net()
	if err != nil {
		return errors.Join(append(r.errs, err)...)
	}
	r.all(syscall.RTM_NEWADDR, r.living(), state.addresses, add)
	r.all(rtmNewNextHop, n.NextHops, state.nextHops, syscall.NLM_F_CREATE|syscall.NLM_F_REPLACE)
	r.all(syscall.RTM_NEWNEIGH, n.Neighbors, state.neighbors, syscall.NLM_F_CREATE)
	r.routes(ctx)
	r.all(rtmNewRule, n.Rules, state.rules, add)
	r.sysctls()
	return errors.Join(r.errs...)
}

// sysctls gives back the settings of links again: coming up changed some (the MTU of IPv6: net/ipv6/addrconf.c,
// addrconf_notify).
func (r *restorer) sysctls() {
	for _, l := range r.Links {
		if r.index[l.Index] == 0 {
			continue
		}
		if now, err := linkByIndex(r.index[l.Index]); err == nil {
			if err := r.writeSysctls(now.Name, l.Sysctls); err != nil {
				r.errs = append(r.errs, err)
			}
		}
	}
}

// rename gives hardware its old names, so that all else can go by name.
func (r *restorer) rename() error {
	links, err := r.present()
	if err != nil {
		return err
	}
	var wrong []misnamed
	for _, l := range r.Links {
		now := r.lookUp(links, l)
		if now == nil {
			continue
		}
		r.index[l.Index] = now.Index
		if now.Name != l.Name {
			wrong = append(wrong, misnamed{now.Index, now.Name, l.Name})
		}
	}
	for _, step := range renames(wrong) {
		if err := whileDown(step.index, attribute{syscall.IFLA_IFNAME, text(step.name)}); err != nil {
			r.failed("rename interface %d from %s to %s: %w", step.index, step.now, step.name, err)
		}
	}
	return nil
}

// misnamed is a link that has another name than it should.
type misnamed struct {
	index     int
	now, name string
}

// renames returns by which steps links get their names. No step needs a name that a link of the list still has: whoever has
// what another wants gets out of the way first, as kmmdN with its index.
func renames(wrong []misnamed) []misnamed {
	var steps, last []misnamed
	for _, w := range wrong {
		if slices.ContainsFunc(wrong, func(o misnamed) bool { return o.name == w.now }) {
			aside := fmt.Sprintf("kmmd%d", w.index)
			steps = append(steps, misnamed{w.index, w.now, aside})
			w.now = aside
		}
		last = append(last, w)
	}
	return append(steps, last...)
}

// translated returns an item's message with the indices of now; nil when a link it is about is not there.
func (r *restorer) translated(kind uint16, i item) (*message, error) {
	m, err := decode(kind, i.Message)
	if err != nil {
		return nil, err
	}
	there := true
	m.eachIndex(func(p []byte) {
		then := int(u32(p))
		if now, ok := r.index[then]; ok {
			native.PutUint32(p, uint32(now))
		} else if slices.ContainsFunc(r.Links, func(l savedLink) bool { return l.Index == then }) {
			there = false
		}
	})
	if !there {
		return nil, nil
	}
	return m, nil
}

// all gives back the items of one kind that are not there. What is on a link that is not there is not complained about:
// the link is.
func (r *restorer) all(kind uint16, items []item, current []*message, flags int) {
	have := keys(current)
	for _, i := range items {
		m, err := r.translated(kind, i)
		if err == nil && (m == nil || have[m.key()]) {
			continue
		}
		if err == nil {
			err = give(kind, flags, m)
		}
		if err != nil {
			r.failed("give back %s: %w", i.Text, err)
		}
	}
}

// give sends a message; that there is such a thing is no error.
func give(kind uint16, flags int, m *message) error {
	if kind == syscall.RTM_NEWNEIGH {
		m, flags = neighborRequest(m, flags)
	}
	if err := send(kind, flags, m); !errors.Is(err, syscall.EEXIST) {
		return err
	}
	return nil
}

// keys returns the keys of messages just read from the kernel.
func keys(list []*message) map[string]bool {
	set := map[string]bool{}
	for _, m := range list {
		m.clean()
		set[m.key()] = true
	}
	return set
}
