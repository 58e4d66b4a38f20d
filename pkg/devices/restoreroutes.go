// SPDX-License-Identifier: Apache-2.0

package devices

import (
	"context"
	"fmt"
	"math"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
)

// living returns the addresses with their remaining lifetimes, without those whose time is over.
func (r *restorer) living() []item {
	var list []item
	elapsed := uint32(min(max(time.Since(r.Saved)/time.Second, 0), math.MaxInt32))
	for _, i := range r.Addresses {
		m, err := decode(syscall.RTM_NEWADDR, i.Message)
		if err != nil {
			list = append(list, i) // reported where it is given back
			continue
		}
		// struct ifa_cacheinfo: preferred, valid, … in seconds, all ones for ever
		if info := m.find(syscall.IFA_CACHEINFO); len(info) >= 8 {
			preferred, valid := remaining(info, elapsed), remaining(info[4:], elapsed)
			if valid == 0 {
				continue
			}
			native.PutUint32(info, preferred)
			native.PutUint32(info[4:], valid)
		}
		list = append(list, item{Text: i.Text, Message: m.encode()})
	}
	return list
}

func remaining(b []byte, elapsed uint32) uint32 {
	switch left := u32(b); {
	case left == math.MaxUint32:
		return left
	case left <= elapsed:
		return 0
	default:
		return left - elapsed
	}
}

// neighborRequest makes what the kernel tells of a neighbour into a request for it.
func neighborRequest(m *message, flags int) (*message, int) {
	if m.family() != syscall.AF_BRIDGE {
		return m, flags | syscall.NLM_F_REPLACE // one that was learned meanwhile
	}
	c := &message{kind: m.kind, head: append([]byte(nil), m.head...), attrs: m.attrs}
	// The entry of a bridge, told by its master; not of the port itself.
	if m.find(ndaMaster) != nil && m.head[10]&netlink.NTF_SELF == 0 {
		c.head[10] |= netlink.NTF_MASTER
	}
	return c, flags | syscall.NLM_F_APPEND // a VXLAN's entry may lead to several places
}

// routes gives back the routes that are not there. One may need another first, and one with an IPv6 source needs that
// address to be checked for duplicates, which takes a second or two: what fails is tried again as long as that helps.
func (r *restorer) routes(ctx context.Context) {
	ticker := time.NewTicker(poll)
	defer ticker.Stop()
	for left := r.Routes; len(left) > 0; {
		checking := r.tentative() // asked before: the check may end between the try and the question
		failed, errs := r.tryRoutes(left)
		if len(failed) == len(left) {
			over := !checking
			if !over {
				select {
				case <-ticker.C:
				case <-ctx.Done():
					over = true
				}
			}
			if over {
				r.errs = append(r.errs, errs...)
				return
			}
		}
		left = failed
	}
}

// tryRoutes gives back what it can of some routes and returns the others.
func (r *restorer) tryRoutes(items []item) (failed []item, errs []error) {
	state, err := r.net()
	if err != nil {
		return items, []error{fmt.Errorf("give back routes: %w", err)}
	}
	have := keys(state.routes)
	for _, i := range items {
		m, err := r.translated(syscall.RTM_NEWROUTE, i)
		if err == nil && (m == nil || have[m.key()]) {
			continue
		}
		if err == nil {
			err = r.route(m)
		}
		if err != nil {
			failed = append(failed, i)
			errs = append(errs, fmt.Errorf("give back %s: %w", i.Text, err))
		}
	}
	return failed, errs
}

// route adds a route. IPv4 appends it to others for the same network, as they were told. IPv6 keeps next hops one by
// one: of a route with several those over other links are still there, and the route as a whole takes their place.
func (r *restorer) route(m *message) error {
	// The life it has left. An expiry of 0 would be none.
	if left := m.find(rtaExpires); left != nil {
		n := remaining(left, uint32(min(max(time.Since(r.Saved)/time.Second, 0), math.MaxInt32)))
		if n == 0 {
			return nil
		}
		m.set(rtaExpires, number(int(n)))
	}
	flags := syscall.NLM_F_CREATE | syscall.NLM_F_APPEND
	if m.family() == syscall.AF_INET6 && m.find(syscall.RTA_MULTIPATH) != nil {
		flags = syscall.NLM_F_CREATE | syscall.NLM_F_REPLACE
	}
	return give(syscall.RTM_NEWROUTE, flags, m)
}

// tentative says whether one of the links has an IPv6 address that is still checked for duplicates.
func (r *restorer) tentative() bool {
	const dadFailed, tentative = 0x08, 0x40
	state, err := r.net()
	if err != nil {
		return false
	}
	ours := map[int]bool{}
	for _, index := range r.index {
		ours[index] = true
	}
	for _, a := range state.addresses {
		if a.on(ours) && a.u32(ifaFlags)&(dadFailed|tentative) == tentative {
			return true
		}
	}
	return false
}
