// SPDX-License-Identifier: Apache-2.0

package soak

import (
	"os"
	"reflect"
	"syscall"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/test/vm/guest"
)

// Steps in which kmmd does not run, or ends.

// paused changes documents while kmmd is stopped by a signal.
func (s *soak) paused() string {
	s.daemon.signal(syscall.SIGSTOP)
	defer s.daemon.signal(syscall.SIGCONT)
	return s.several()
}

func (s *soak) killed() string {
	s.daemon.kill()
	s.daemon.start()
	return "and started"
}

func (s *soak) restarted() string {
	s.daemon.stop()
	s.daemon.start()
	return "and started"
}

// killedAmid kills kmmd while it is about to do something, or does it.
func (s *soak) killedAmid() string {
	did := s.several()
	after := time.Duration(s.rng.IntN(600)) * time.Millisecond
	<-time.After(after)
	s.daemon.kill()
	s.daemon.start()
	return did + "; killed after " + after.String()
}

// down changes documents and modules while there is no kmmd.
func (s *soak) down() string {
	s.daemon.kill()
	did := s.several()
	if name := s.pick(s.removable()); name != "" {
		guest.Unload(s, s.world.docs[name].what.module)
		did += "; rmmod " + name
	}
	s.daemon.start()
	return did
}

// allGood reports whether nothing but the documents tells what is to run.
func (s *soak) allGood() bool {
	return !s.world.broken && len(s.world.names(func(d *document) bool { return !d.good() })) == 0
}

// ledgerLost has kmmd start without knowing what it did. What runs is somebody else's then, unless it is what is asked for.
func (s *soak) ledgerLost() string {
	other := func(d *document) bool { return !reflect.DeepEqual(d.asked.image, s.store.peek(d.asked)) }
	if !s.allGood() || len(s.world.names(other)) > 0 {
		return ""
	}
	s.daemon.kill()
	require.NoError(s, os.RemoveAll(s.host.path("run")))
	s.world.pathForgotten = len(s.world.firmware()) > 0
	s.daemon.start()
	return "and started"
}

// storeLost has kmmd start without images. It gets those that run, whatever their
// tags stand for by now.
func (s *soak) storeLost() string {
	if !s.allGood() {
		return ""
	}
	s.daemon.kill()
	require.NoError(s, os.RemoveAll(s.host.path("state/images")))
	for _, d := range s.world.docs {
		s.store.unknown[d.asked.tag] = true
	}
	s.daemon.start()
	return "and started"
}
