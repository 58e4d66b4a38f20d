// SPDX-License-Identifier: Apache-2.0

// Package cluster is the source of a node in a cluster: it watches the one
// NodeModulesConfig of this node, and writes that object's status. The last
// order is kept on disk, so that a node needs no API server to boot.
//
// It never writes anything but that status, asks for no other object than the
// Secrets it is told to, and knows nothing of kernels. Losing the API server,
// or the object, changes nothing that is wanted.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/kmm-node/kmmd/pkg/api/client"
	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
	"github.com/kmm-node/kmmd/pkg/spec"
)

// Config is what a Source works with. Node, Connect and Log are required.
type Config struct {
	// Node is this node's name in the cluster.
	Node string
	// Connect tells where the API server is and who we are. It is called until it
	// succeeds once: what it reads may not be there yet when a node boots.
	Connect func() (*rest.Config, error)
	// StateFile has the last order across reboots; "" keeps none.
	StateFile string
	Log       *slog.Logger
	// Metrics may be nil.
	Metrics *Metrics
}

// Source is one node's place in the cluster. Make it with New.
type Source struct {
	cfg    Config
	writer *writer
	saved  *order // as the file had it at the start, or nil
	// patience is askTimeout; tests have less.
	patience time.Duration

	mu     sync.Mutex // guards client
	client *client.Client

	// Of Watch only.
	set     func(spec.Node)
	wanted  *order // the last order; nil when there never was one
	heard   bool   // the API server has answered, or saved is there
	missing bool   // the object is not there, and that was told
	unsaved bool   // the last order is not in StateFile
	short   int    // watches in a row, since the last list, that were over early

	link sync.Mutex // guards down
	down string     // why the API server can not be asked; "" when it can
}

// New reads the last order, and asks nobody. A file of another node, or one that
// can not be read, counts as none.
func New(cfg Config) (*Source, error) {
	if cfg.Node == "" {
		return nil, errors.New("join the cluster: the node has no name")
	}
	s := &Source{cfg: cfg, patience: askTimeout}
	s.writer = newWriter(s)
	saved, err := readState(cfg.StateFile)
	switch {
	case err != nil:
		cfg.Log.Warn("the last order is not readable and left out", "err", err)
	case saved != nil && saved.Node != cfg.Node:
		cfg.Log.Warn("the last order is another node's and left out", "file", cfg.StateFile, "of", saved.Node, "node", cfg.Node)
	default:
		s.saved = saved
	}
	s.wanted, s.heard = s.saved, s.saved != nil
	return s, nil
}

// Saved is the order that was on disk when New was called; ok is false when there
// was none.
func (s *Source) Saved() (n spec.Node, ok bool) {
	if s.saved == nil {
		return spec.Node{}, false
	}
	return s.saved.node(), true
}

// first and longest wait between two tries to ask the API server, each up to
// twice as long by chance: not all nodes ask at once when it is back.
const (
	firstAsk = 500 * time.Millisecond
	lastAsk  = 10 * time.Second
)

// Watch calls set with the last order if there is one, then with each that the
// API server has, and writes what Report is told, until ctx is done; it then
// returns nil. Without an object nothing is asked for if nothing was before;
// else what was asked for stays. It may be called once.
func (s *Source) Watch(ctx context.Context, set func(spec.Node)) error {
	s.set = set
	if s.wanted != nil {
		set(s.wanted.node())
	}
	var writing sync.WaitGroup
	defer writing.Wait()
	writing.Go(func() { s.writer.run(ctx) })
	// What goes wrong is logged here, once and not at each try.
	quiet := klog.Logger{}
	cache.NewReflectorWithOptions(plainList{&cache.ListWatch{ListWithContextFunc: s.list, WatchFuncWithContext: s.watch}},
		&v1beta1.NodeModulesConfig{}, &mirror{s}, cache.ReflectorOptions{
			Name: s.cfg.Node, Logger: &quiet,
			Backoff: &wait.Backoff{Duration: firstAsk, Cap: lastAsk, Steps: 100, Factor: 2, Jitter: 1},
		}).RunWithContext(klog.NewContext(ctx, quiet))
	return nil
}

// plainList is read by a list and then a watch. The other way, a watch that
// begins with what there is, saves memory for many objects; for one it only makes
// an API server that has just started keep us waiting.
type plainList struct{ *cache.ListWatch }

// IsWatchListSemanticsUnSupported is how client-go asks (util/watchlist).
func (plainList) IsWatchListSemanticsUnSupported() bool { return true }

// server is the client, made when it is first needed.
func (s *Source) server() (*client.Client, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client != nil {
		return s.client, nil
	}
	cfg, err := s.cfg.Connect()
	if err != nil {
		return nil, fmt.Errorf("join the cluster: %w", err)
	}
	s.client, err = client.New(cfg)
	return s.client, err
}

// only asks for this node's object and no other.
func (s *Source) only(o metav1.ListOptions) metav1.ListOptions {
	o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, s.cfg.Node).String()
	return o
}

// note tells when the API server goes and comes.
func (s *Source) note(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return err
	}
	s.link.Lock()
	defer s.link.Unlock()
	switch {
	case err == nil && s.down != "":
		s.cfg.Log.Info("the API server answers again")
	case err != nil && s.down == "":
		s.cfg.Log.Warn("the API server can not be asked; what is wanted stays", "err", err)
	}
	s.down = ""
	if err != nil {
		s.down = err.Error()
	}
	s.cfg.Metrics.connected(err == nil)
	return err
}

// mirror gets what a Reflector sees of the one object.
type mirror struct{ s *Source }

func (m *mirror) Add(o any) error    { return m.Update(o) }
func (m *mirror) Delete(any) error   { m.s.seen(nil, false); return nil }
func (m *mirror) Resync() error      { return nil }
func (m *mirror) Update(o any) error { m.s.seen(o.(*v1beta1.NodeModulesConfig), false); return nil }

// Replace gets the whole list.
func (m *mirror) Replace(list []any, _ string) error {
	for _, o := range list {
		if nmc := o.(*v1beta1.NodeModulesConfig); nmc.Name == m.s.cfg.Node {
			m.s.seen(nmc, true)
			return nil
		}
	}
	m.s.seen(nil, true)
	return nil
}

// seen takes in what the object is now; nil is that there is none. listed says
// that this is no event but an answer to the question.
func (s *Source) seen(nmc *v1beta1.NodeModulesConfig, listed bool) {
	s.writer.observe(nmc, listed)
	if nmc == nil {
		s.gone()
		return
	}
	s.missing = false
	o := orderOf(nmc, s.wanted)
	same := s.wanted != nil && s.wanted.UID == o.UID && s.wanted.Generation == o.Generation
	if !same || s.unsaved {
		s.keep(o)
	}
	if same {
		return
	}
	s.wanted, s.heard = o, true
	s.set(o.node())
}

// keep an order for the next start. When that fails it is tried again with all that is heard of the object: the next
// start would act on an older one.
func (s *Source) keep(o *order) {
	err := writeState(s.cfg.StateFile, o)
	if err != nil && !s.unsaved {
		s.cfg.Log.Error("the order is not kept for the next boot", "err", err)
	}
	s.unsaved = err != nil
}

func (s *Source) gone() {
	if s.wanted != nil && !s.missing {
		s.cfg.Log.Warn("there is no NodeModulesConfig of this node; what was wanted stays", "node", s.cfg.Node)
	}
	s.missing = true
	if !s.heard {
		s.heard = true
		s.set(spec.Node{})
	}
}
