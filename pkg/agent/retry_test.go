// SPDX-License-Identifier: Apache-2.0

package agent_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/agent"
	"github.com/kmm-node/kmmd/pkg/images"
	"github.com/kmm-node/kmmd/pkg/kernel"
	"github.com/kmm-node/kmmd/pkg/kernel/kerneltest"
	"github.com/kmm-node/kmmd/pkg/kmod/kmodtest"
	"github.com/kmm-node/kmmd/pkg/spec"
)

// advance lets the bubble's clock run and waits until all is quiet.
func advance(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// daemon runs the agent in the bubble; the function it returns stops it.
func (n *node) daemon() (stop func()) {
	ctx, cancel := context.WithCancel(n.t.Context())
	done := make(chan error, 1)
	go func() { done <- n.agent.Run(ctx) }()
	return func() {
		cancel()
		assert.NoError(n.t, <-done)
	}
}

// last is the status that was reported last.
func (n *node) last() spec.Status {
	n.t.Helper()
	n.telling.Lock()
	defer n.telling.Unlock()
	require.NotEmpty(n.t, n.reports)
	return n.reports[len(n.reports)-1]
}

func TestRegistryIsUnreachable(t *testing.T) {
	malformed := fmt.Errorf("%w: %w", images.ErrManifest, images.ErrUnsafe)
	for _, err := range []error{images.ErrUnreachable, images.ErrNotFound, images.ErrUnauthorized, malformed} {
		t.Run(err.Error(), func(t *testing.T) {
			n := newNode(t)
			w := n.swap(n.image("1", ours("1"), nil))
			n.Preload(n.inTree("dummy"), "")
			n.images.fail(w.image, err)
			synctest.Test(t, func(t *testing.T) {
				n.start()
				stop := n.daemon()
				defer stop()
				start := time.Now()
				n.agent.SetDesired(documents(w))
				advance(10 * time.Minute)
				var waits []time.Duration
				for i, at := range n.images.asked {
					if i > 0 {
						waits = append(waits, at.Sub(n.images.asked[i-1]).Round(time.Second))
					}
				}
				assert.Equal(t, start, n.images.asked[0])
				const top = 2 * time.Minute
				assert.Equal(t, []time.Duration{2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second, 32 * time.Second,
					64 * time.Second, top, top, top}, waits)
				m := one(t, n.last())
				assert.Equal(t, spec.StateFailed, m.State)
				assert.Equal(t, start.UTC(), m.Since, "since the first try")
				require.NotNil(t, m.RetryAt)
				assert.True(t, m.RetryAt.After(time.Now()))
				assert.Empty(t, n.calls())
				assert.Equal(t, "in-tree", n.runs("dummy"), "nothing is removed for what is not here")

				n.images.fail(w.image, nil)
				advance(top)
				assert.True(t, n.last().OK())
				assert.Nil(t, one(t, n.last()).RetryAt)
				asked := len(n.images.asked)
				advance(time.Hour)
				assert.Len(t, n.images.asked, asked, "a registry is left alone once all is here")
			})
		})
	}
}

func TestInUseThenNot(t *testing.T) {
	n := newNode(t)
	w := n.swap(n.image("1", ours("1"), nil))
	n.Preload(n.inTree("dummy"), "")
	n.Hold("dummy", 1)
	synctest.Test(t, func(t *testing.T) {
		n.start()
		stop := n.daemon()
		defer stop()
		n.agent.SetDesired(documents(w))
		advance(time.Minute)
		m := one(t, n.last())
		assert.Equal(t, spec.ReasonInUse, m.Reason)
		require.NotNil(t, m.RetryAt)
		assert.Empty(t, n.calls())
		assert.Equal(t, 1, strings.Count(n.log.String(), "level=ERROR"), "the same thing is logged once")
		n.Hold("dummy", 0)
		advance(2 * time.Minute)
		assert.True(t, n.last().OK())
		assert.Equal(t, []string{"hold dummy", "unload dummy", loadOurs}, n.calls())
	})
}

// TestBusyLoad: the kernel's EBUSY passes while another module of that name goes; what an init function says does not.
func TestBusyLoad(t *testing.T) {
	for _, tt := range []struct {
		name  string
		errno syscall.Errno
		tries int
	}{{"race", syscall.EBUSY, 5}, {"no device", syscall.ENODEV, 1}} {
		t.Run(tt.name, func(t *testing.T) {
			n := newNode(t)
			w := want{name: "nic", image: n.image("1", ours("1"), nil), module: "helper"}
			kmodtest.WriteTree(t, n.path("theirs"), only(ours("2"), "helper"))
			racing := tt.errno == syscall.EBUSY
			if !racing {
				n.FailInit("helper", tt.errno)
			}
			tries := map[time.Time]bool{}
			n.OnCall(func(string) {
				tries[time.Now()] = true
				if racing {
					n.Preload(n.path("theirs/helper.ko"), "")
					n.SetState("helper", kernel.StateGoing)
				}
			})
			synctest.Test(t, func(t *testing.T) {
				n.start(func(c *agent.Config) {
					c.AfterStep = func() { // it has gone
						if n.runs("helper") == "2" {
							n.SetState("helper", kernel.StateLive)
							require.NoError(t, n.Rmmod("helper"))
						}
					}
				})
				stop := n.daemon()
				defer stop()
				n.agent.SetDesired(documents(w))
				advance(59 * time.Second)
				assert.Len(t, tries, tt.tries, "times at which it was tried")
				assert.Equal(t, racing, one(t, n.last()).RetryAt != nil)
				n.OnCall(nil)
				n.FailInit("helper", 0)
				advance(5 * time.Minute)
				assert.Equal(t, tt.errno == syscall.EBUSY, n.last().OK())
			})
		})
	}
}

// TestInitSays: whatever an init function returns, also what would be a race if a module of that name were there, the driver
// that works is taken away for it once.
func TestInitSays(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.ENODEV, syscall.EBUSY, syscall.EEXIST} {
		t.Run(errno.Error(), func(t *testing.T) {
			n := newNode(t)
			n.Preload(n.inTree("dummy"), "")
			n.FailInit("helper", errno, "helper: the name is taken")
			w := want{name: "nic", image: n.image("1", ours("1"), nil), module: "helper", remove: []string{"dummy"}}
			synctest.Test(t, func(t *testing.T) {
				n.start()
				stop := n.daemon()
				defer stop()
				n.agent.SetDesired(documents(w))
				advance(30 * time.Minute)
				calls := strings.Join(n.calls(), "\n")
				assert.Equal(t, 1, strings.Count(calls, "unload dummy"), calls)
				assert.LessOrEqual(t, strings.Count(calls, "load helper"), 3)
				m := one(t, n.last())
				assert.Equal(t, spec.ReasonInitFailed, m.Reason)
				assert.True(t, m.RolledBack)
				assert.Nil(t, m.RetryAt)
				assert.Contains(t, m.Message, "the name is taken")
				assert.Equal(t, "in-tree", n.runs("dummy"))
			})
		})
	}
}

// TestInitIsAwaited: the kernel has waited for a dependency long enough. The driver that works is not kept away for another
// try, and comes back; later the dependency may be there.
func TestInitIsAwaited(t *testing.T) {
	n := newNode(t)
	n.Preload(n.inTree("dummy"), "")
	n.FailInit("helper", syscall.EBUSY, "helper: gave up waiting for init of module core.", "helper: Unknown symbol core_symbol (err -16)")
	w := want{name: "nic", image: n.image("1", ours("1"), nil), module: "helper", remove: []string{"dummy"}}
	m := one(t, n.reconcile(w))
	assert.Equal(t, []string{"hold dummy", "unload dummy", "load helper", "load dummy numdummies=0", "hold"}, n.calls())
	assert.Equal(t, spec.ReasonLoadFailed, m.Reason)
	assert.NotNil(t, m.RetryAt)
}

// TestNoMemory: there may be some later; an init function may also say so for ever, and the driver that works is not taken away
// for that every few minutes.
func TestNoMemory(t *testing.T) {
	n := newNode(t)
	n.Preload(n.inTree("dummy"), "")
	n.FailInit("helper", syscall.ENOMEM)
	w := want{name: "nic", image: n.image("1", ours("1"), nil), module: "helper", remove: []string{"dummy"}}
	var tries []time.Duration
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		n.OnCall(func(call string) {
			if call == "load helper" {
				tries = append(tries, time.Since(start).Round(time.Minute))
			}
		})
		n.start()
		stop := n.daemon()
		defer stop()
		n.agent.SetDesired(documents(w))
		advance(4*time.Hour + 10*time.Minute)
		assert.Equal(t, []time.Duration{0, 2 * time.Minute, 6 * time.Minute, 14 * time.Minute, 30 * time.Minute, 62 * time.Minute,
			122 * time.Minute, 182 * time.Minute, 242 * time.Minute}, tries)
		require.NotNil(t, one(t, n.last()).RetryAt)
		n.FailInit("helper", 0)
		advance(time.Hour)
		assert.True(t, n.last().OK())
	})
}

// childless is a kernel that can not be asked: there is no process for it.
type childless struct {
	*kerneltest.Kernel
	until time.Time
}

func (k *childless) none(op, name string) error {
	if time.Now().Before(k.until) {
		return &kernel.Error{Op: op, Module: name, Err: fmt.Errorf("start child: %w", kernel.ErrNoChild)}
	}
	return nil
}

func (k *childless) Load(ctx context.Context, r kernel.LoadRequest) error {
	if err := k.none("load", r.Name); err != nil {
		return err
	}
	return k.Kernel.Load(ctx, r)
}

func (k *childless) Unload(ctx context.Context, name string, timeout time.Duration) error {
	if err := k.none("unload", name); err != nil {
		return err
	}
	return k.Kernel.Unload(ctx, name, timeout)
}

// TestNoChild: a limit of processes that was reached is no refusal of the kernel.
func TestNoChild(t *testing.T) {
	for name, remove := range map[string][]string{"load": nil, "unload": {"dummy"}} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			n.Preload(n.inTree("dummy"), "")
			w := want{name: "nic", image: n.image("1", ours("1"), nil), module: "helper", remove: remove}
			synctest.Test(t, func(t *testing.T) {
				n.start(func(c *agent.Config) { c.Kernel = &childless{n.Kernel, time.Now().Add(time.Minute)} })
				stop := n.daemon()
				defer stop()
				n.agent.SetDesired(documents(w))
				advance(time.Second)
				m := one(t, n.last())
				assert.Equal(t, spec.StateFailed, m.State)
				assert.Contains(t, m.Message, "start child")
				assert.NotNil(t, m.RetryAt)
				assert.Equal(t, "in-tree", n.runs("dummy"))
				advance(2 * time.Minute)
				assert.True(t, n.last().OK())
			})
		})
	}
}

func TestRun(t *testing.T) {
	n := newNode(t)
	w := n.swap(n.image("1", ours("1"), nil))
	synctest.Test(t, func(t *testing.T) {
		n.start(func(c *agent.Config) { c.Resync = 10 * time.Minute })
		stop := n.daemon()
		advance(time.Hour)
		n.agent.Trigger()
		synctest.Wait()
		assert.Empty(t, n.reports, "nobody has said what is wanted")
		assert.False(t, n.agent.Ready())

		n.agent.SetDesired(documents(w))
		synctest.Wait()
		assert.True(t, n.agent.Ready())
		assert.True(t, n.last().OK())
		n.calls()

		require.NoError(t, n.Rmmod("dummy"))
		n.agent.Trigger()
		n.agent.Trigger()
		synctest.Wait()
		assert.Equal(t, []string{loadOurs}, n.calls(), "at a hint")

		advance(9 * time.Minute)
		require.NoError(t, n.Rmmod("dummy"))
		advance(59 * time.Second)
		assert.Empty(t, n.calls())
		advance(2 * time.Second)
		assert.Equal(t, []string{loadOurs}, n.calls(), "without a hint after a while")
		stop()
		assert.Equal(t, "1", n.runs("dummy"), "what runs goes on without kmmd")
	})
}

// TestStop: told to stop in the middle of a change, kmmd finishes it and begins
// no other.
func TestStop(t *testing.T) {
	for _, tt := range []struct {
		name  string
		errno syscall.Errno
	}{{"change", 0}, {"roll back", syscall.EIO}} {
		t.Run(tt.name, func(t *testing.T) {
			n := newNode(t)
			image := n.image("1", ours("1"), nil)
			n.Preload(n.inTree("dummy"), "")
			n.FailInit("middle", tt.errno)
			wants := documents(want{name: "a", image: image, module: "middle", remove: []string{"dummy"}}, want{name: "b", image: image, module: "helper"})
			n.start()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			n.OnCall(func(call string) {
				if call == "unload dummy" {
					cancel()
				}
			})
			n.agent.SetDesired(wants)
			require.NoError(t, n.agent.Run(ctx))
			if tt.errno == 0 {
				assert.Equal(t, []string{"hold dummy", "unload dummy", "load base", "load middle"}, n.calls())
				assert.Equal(t, "1", n.runs("middle"))
			} else {
				assert.Equal(t, []string{"hold dummy", "unload dummy", "load base", "load middle", "unload base", "load dummy numdummies=0", "hold"}, n.calls())
				assert.Equal(t, "in-tree", n.runs("dummy"))
			}
			assert.NotContains(t, n.ledger(), "journal")
		})
	}
}

// TestSince: a state's time is that of its beginning, over restarts too.
func TestSince(t *testing.T) {
	n := newNode(t)
	w := want{name: "nic", image: n.image("1", ours("1"), nil), module: "base"}
	other := want{name: "other", image: w.image, module: "helper"}
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now().UTC()
		assert.Equal(t, begin, one(t, n.reconcile(w)).Since)
		advance(time.Hour)
		s := n.reconcile(w, other)
		assert.Equal(t, begin, s.Modules[0].Since)
		assert.Equal(t, begin.Add(time.Hour), s.Modules[1].Since)
		assert.Equal(t, begin.Add(time.Hour), s.Time)
		advance(time.Hour)
		n.start()
		assert.Equal(t, s, n.reconcile(w, other), "a restart changes nothing")
		w.parameters = []string{"nope=1"}
		m := n.reconcile(w, other).Modules[0]
		assert.Equal(t, spec.ReasonInvalidParameter, m.Reason)
		assert.Equal(t, begin.Add(2*time.Hour), m.Since)
		advance(time.Hour)
		w.parameters = nil
		assert.Equal(t, begin.Add(3*time.Hour), n.reconcile(w, other).Modules[0].Since)
		n.Reboot(release)
		n.start()
		advance(time.Hour)
		assert.Equal(t, begin.Add(4*time.Hour), n.reconcile(w, other).Modules[0].Since, "of this boot")
	})
}

func TestLive(t *testing.T) {
	n := newNode(t)
	w := want{name: "nic", image: n.image("1", ours("1"), nil), module: "base"}
	synctest.Test(t, func(t *testing.T) {
		n.start()
		require.NoError(t, n.agent.Live(time.Minute))
		asked := false
		n.OnCall(func(string) {
			asked = true
			assert.NoError(t, n.agent.Live(time.Minute))
			advance(2 * time.Minute) // a load that hangs
			assert.ErrorContains(t, n.agent.Live(time.Minute), "running for 2m0s")
			assert.False(t, n.agent.Ready())
		})
		n.reconcile(w)
		assert.True(t, asked)
		assert.NoError(t, n.agent.Live(time.Minute))
		assert.True(t, n.agent.Ready())
	})
}

// TestStoppedWhilePulling: a pull that was cut short is no finding.
func TestStoppedWhilePulling(t *testing.T) {
	n := newNode(t)
	w := want{name: "nic", image: n.image("1", ours("1"), nil), module: "base"}
	n.start()
	n.agent.SetDesired(documents(w))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := n.agent.Reconcile(ctx)
	require.ErrorIs(t, err, context.Canceled)
	assert.Empty(t, n.calls())
	assert.Empty(t, n.reports)
	assert.False(t, n.agent.Ready())
}

func TestNobodyHasSaidWhatIsWanted(t *testing.T) {
	n := newNode(t)
	n.start()
	_, err := n.agent.Reconcile(t.Context())
	require.ErrorContains(t, err, "SetDesired")
	_, _, err = n.agent.Plan(t.Context())
	require.ErrorContains(t, err, "SetDesired")
}

// TestPlan says what Reconcile would do, and does nothing.
func TestPlan(t *testing.T) {
	n := newNode(t)
	n.Preload(n.inTree("dummy"), "")
	w := n.swap(n.image("1", ours("1"), nil))
	n.start()
	n.agent.SetDesired(documents(w, want{name: "bad", image: w.image, module: "nope"}))
	p, unresolved, err := n.agent.Plan(t.Context())
	require.NoError(t, err)
	require.Len(t, p.Transactions, 1)
	var steps []string
	for _, s := range p.Transactions[0].Steps {
		steps = append(steps, strings.Fields(s.String())[0])
	}
	assert.Equal(t, []string{"hold", "unload", "load"}, steps)
	assert.Equal(t, "ModuleNotFound", unresolved["default/bad"].Reason)
	assert.Empty(t, n.calls())
	assert.NoFileExists(t, n.path("run/ledger.json"))
}

// TestKernelCanNotBeRead: an error about the node, not about a Module.
func TestKernelCanNotBeRead(t *testing.T) {
	n := newNode(t)
	w := want{name: "nic", image: n.image("1", ours("1"), nil), module: "base"}
	n.start()
	n.agent.SetDesired(documents(w))
	require.NoError(t, os.WriteFile(n.path("firmware.json"), []byte("no manifest"), 0o600))
	_, err := n.agent.Reconcile(t.Context())
	require.ErrorContains(t, err, "firmware")
	assert.Empty(t, n.calls())
	assert.False(t, n.agent.Ready())
}
