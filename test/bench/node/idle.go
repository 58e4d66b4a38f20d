// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
	"github.com/kmm-node/kmmd/pkg/source/cluster/clustertest"
)

// settled is longer than kmmd waits before it takes itself for one that has nothing to do.
const settled = 15 * time.Second

// idleness is a kmmd that nobody asks for anything.
type idleness struct {
	Cluster bool    `json:"cluster"`
	RSS     int64   `json:"rss"`  // bytes of the process and those it has started
	Anon    int64   `json:"anon"` // of these, what is not in files
	Wakeups float64 `json:"wakeups"`
	// Switches are those of all threads, from one to the next as well.
	Switches float64 `json:"switches"`
	CPU      float64 `json:"cpu"` // milliseconds in a minute
}

// idle measures without and with a cluster.
func (g *guest) idle(ctx context.Context, o options) ([]idleness, error) {
	var out []idleness
	for _, cluster := range []bool{false, true} {
		var args []string
		if cluster {
			args = []string{"--cluster"}
			stop, err := apiServer()
			if err != nil {
				return nil, err
			}
			defer stop()
		}
		d, err := g.together(args...)
		if err != nil {
			return nil, err
		}
		i, err := watchIdle(ctx, d, o.idle)
		if err != nil {
			return nil, err
		}
		// It looks around now and then, also when nobody asks for it.
		if err := errors.Join(g.look(d, 1), d.rest(settled)); err != nil {
			return nil, err
		}
		i.RSS, i.Anon = max(i.RSS, d.memory("VmRSS")), max(i.Anon, d.memory("RssAnon"))
		i.Cluster = cluster
		say("idle, cluster %v: %+v", cluster, i)
		out = append(out, i)
		if err := g.apart(d); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// glance is how often it is looked whether kmmd has run; what it does at once is one wake-up, however many threads do it.
const glance = 20 * time.Millisecond

// watchIdle counts how often kmmd, or its child, has run.
func watchIdle(ctx context.Context, d *daemon, long time.Duration) (i idleness, err error) {
	if err := d.rest(settled); err != nil {
		return i, err
	}
	pids := d.processes()
	switches := func() int64 { return status(pids, true, "voluntary_ctxt_switches", "nonvoluntary_ctxt_switches") }
	begin, before := time.Now(), switches()
	first, err := d.cpu()
	if err != nil {
		return i, err
	}
	tick := time.NewTicker(glance)
	defer tick.Stop()
	last, awake := before, false
	for time.Since(begin) < long {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return i, ctx.Err()
		}
		now := switches()
		if now != last && !awake {
			i.Wakeups++
		}
		last, awake = now, now != last
	}
	used, err := d.cpu()
	if err != nil {
		return i, err
	}
	minutes := time.Since(begin).Minutes()
	i.Wakeups /= minutes
	i.Switches = float64(last-before) / minutes
	i.CPU = (used - first).Seconds() * 1000 / minutes
	i.RSS, i.Anon = d.memory("VmRSS"), d.memory("RssAnon")
	return i, nil
}

// memory is a figure of kmmd and those it has started together, in bytes.
func (d *daemon) memory(figure string) int64 { return status(d.processes(), false, figure) << 10 }

// bench is the part of testing.TB that the API server in memory asks for.
type bench struct {
	testing.TB
	cleanups []func()
	failed   string
}

func (b *bench) Helper()                           {}
func (b *bench) Cleanup(f func())                  { b.cleanups = append(b.cleanups, f) }
func (b *bench) Errorf(format string, args ...any) { b.failed = fmt.Sprintf(format, args...) }
func (b *bench) FailNow()                          { panic(b.failed) }

// apiServer serves the node's object, an empty order, and writes down for kmmd
// where.
func apiServer() (stop func(), err error) {
	b := &bench{}
	fake := clustertest.NewFake(b)
	stop = func() {
		for _, f := range b.cleanups {
			f()
		}
	}
	host, err := os.Hostname()
	if err != nil {
		return stop, err
	}
	server := fake.Config().Host
	object, err := json.Marshal(&v1beta1.NodeModulesConfig{ObjectMeta: metav1.ObjectMeta{Name: host}})
	if err != nil {
		return stop, err
	}
	resp, err := http.Post(server+"/apis/kmm.sigs.x-k8s.io/v1beta1/nodemodulesconfigs", "application/json", bytes.NewReader(object))
	if err != nil {
		return stop, err
	}
	_ = resp.Body.Close()
	kubeconfig := filepath.Join("/tmp", "kubeconfig")
	text := fmt.Sprintf("apiVersion: v1\nkind: Config\nclusters: [{name: c, cluster: {server: %q}}]\ncontexts: [{name: c, context: {cluster: c, user: u}}]\nusers: [{name: u, user: {}}]\ncurrent-context: c\n", server)
	config := fmt.Sprintf("state_dir = %q\n[cluster]\nkubeconfig = %q\n", disk+"/state", kubeconfig)
	if err := os.WriteFile(kubeconfig, []byte(text), 0o600); err != nil {
		return stop, err
	}
	return stop, os.WriteFile("/etc/kmmd/kmmd.toml", []byte(config), 0o644)
}
