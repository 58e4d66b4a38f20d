// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/kmm-node/kmmd/pkg/images"
	"github.com/kmm-node/kmmd/pkg/images/cosign"
	"github.com/kmm-node/kmmd/pkg/images/credentials"
	"github.com/kmm-node/kmmd/pkg/images/registries"
)

// imageDir is the node's image store.
func (c config) imageDir() string { return filepath.Join(c.StateDir, "images") }

// imageOptions are what the configuration says of the store.
func (c config) imageOptions(log *slog.Logger) (images.Options, error) {
	o := images.Options{Quota: c.ImageQuota.Bytes, Policy: images.Policy{
		AllowedRepositories: c.Policy.AllowedRepositories, RequireDigest: c.Policy.RequireDigest,
	}}
	if err := o.Policy.Check(); err != nil {
		return o, usageError{err}
	}
	// What is malformed there is said again by the pull it matters to.
	var err error
	if o.Registries, err = registries.Load(registries.Options{Root: c.HostRoot}); err != nil {
		log.Warn("the node's registry configuration is not all readable", "err", err)
	}
	if o.Keyring, err = credentials.Load(credentials.Options{Root: c.HostRoot}); err != nil {
		log.Warn("the node's credentials are not all readable", "err", err)
	}
	for _, w := range o.Keyring.Warnings() {
		log.Warn("credentials of the node are left out", "why", w)
	}
	for _, name := range c.Policy.SignatureKeys {
		data, err := os.ReadFile(name)
		if err != nil {
			return o, usageError{fmt.Errorf("policy: signature_keys: %w", err)}
		}
		keys, err := cosign.ParseKeys(name, data)
		if err != nil {
			return o, usageError{fmt.Errorf("policy: signature_keys: %w", err)}
		}
		o.Policy.Keys = append(o.Policy.Keys, keys...)
	}
	return o, nil
}

func logClose(log *slog.Logger, s *images.Store) {
	if err := s.Close(); err != nil {
		log.Error("close image store", "err", err)
	}
}

// peek looks at images without leaving anything behind: what the store has is
// used, the rest is pulled into a directory of its own, or with offline not at
// all.
type peek struct{ have, scratch *images.Store }

func openPeek(log *slog.Logger, dir string, opts images.Options, offline bool) (*peek, func(), error) {
	var p peek
	var err error
	if _, statErr := os.Stat(dir); statErr == nil {
		if p.have, err = images.Open(dir, opts); err != nil {
			return nil, nil, err
		}
	}
	if offline {
		return &p, func() {
			if p.have != nil {
				logClose(log, p.have)
			}
		}, nil
	}
	tmp, err := os.MkdirTemp("", "kmmd-plan-")
	if err != nil {
		return nil, nil, fmt.Errorf("make scratch directory: %w", err)
	}
	opts.VerifiedFile = "" // it is about the files of the other one
	if p.scratch, err = images.Open(tmp, opts); err != nil {
		return nil, nil, err
	}
	return &p, func() {
		if p.have != nil {
			logClose(log, p.have)
		}
		logClose(log, p.scratch)
		if err := os.RemoveAll(tmp); err != nil {
			log.Error("remove scratch directory", "err", err)
		}
	}, nil
}

// Ensure implements agent.Images, with the answer that the store itself would give.
func (p *peek) Ensure(ctx context.Context, r images.Request) (*images.Tree, error) {
	if p.scratch == nil {
		r.PullPolicy = images.PullNever
		if p.have == nil {
			return nil, fmt.Errorf("image %s: %w: there is no store yet", r.Ref, images.ErrNotCached)
		}
	}
	asks, err := r.AsksAlways()
	if err != nil {
		return nil, err
	}
	if p.have != nil && !asks {
		t, err := p.stored(ctx, r)
		if !errors.Is(err, images.ErrNotCached) || r.PullPolicy == images.PullNever {
			return t, err
		}
	}
	t, err := p.scratch.Ensure(ctx, r)
	if p.have != nil && asks && errors.Is(err, images.ErrUnreachable) {
		if t, err := p.stored(ctx, r); err == nil {
			t.Stale = true
			return t, nil
		}
	}
	return t, err
}

func (p *peek) stored(ctx context.Context, r images.Request) (*images.Tree, error) {
	r.PullPolicy = images.PullNever
	return p.have.Ensure(ctx, r)
}

// Verified implements agent.Images. Nothing is loaded.
func (p *peek) Verified(string) (*os.File, func(), bool) { return nil, nil, false }
