// SPDX-License-Identifier: Apache-2.0

package watcher

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
	"github.com/kmm-node/kmmd/pkg/build"
	"github.com/kmm-node/kmmd/pkg/spec"
)

// imageWork on the queue is a look at the images of a Module.
const imageWork = "image/"

// lookAgain is how often the ConfigMaps and Secrets that go into images are read
// for changes.
const lookAgain = 30 * time.Second

// makesImages reports whether the cluster makes images for a Module at all.
func makesImages(m *v1beta1.Module) bool {
	e := m.Spec.ModuleLoader
	if e == nil {
		return false
	}
	return e.Container.Build != nil || e.Container.Sign != nil ||
		slices.ContainsFunc(e.Container.KernelMappings, func(k v1beta1.KernelMapping) bool { return k.Build != nil || k.Sign != nil })
}

// syncImages has the images of a Module made, one kernel after the other, and
// looks again when something is due.
func (w *Watcher) syncImages(ctx context.Context, k string) error {
	m, ok := get[*v1beta1.Module](w.modules, k)
	if !ok {
		w.makings.forget(k)
		return nil
	}
	if m.DeletionTimestamp != nil {
		return nil // its Jobs go with it
	}
	have := w.makings.of(m)
	if !makesImages(m) {
		err := w.stopJobs(ctx, m, func(string) bool { return true })
		w.noteImages(m, map[string]v1beta1.ModuleImage{}, err == nil)
		return err
	}
	next, again := map[string]v1beta1.ModuleImage{}, lookAgain
	demand := w.demandOf(m)
	var errs []error
	decided := true
	for _, kernel := range slices.Sorted(maps.Keys(demand)) {
		i, made, waits, err := w.syncImage(ctx, m, kernel, have[kernel], demand[kernel])
		if err != nil {
			errs = append(errs, err)
		}
		decided = decided && !waits
		if !made {
			continue
		}
		next[kernel] = i
		if i.RetryAt != nil && i.State == v1beta1.ImageFailed {
			again = min(again, max(time.Until(i.RetryAt.Time), time.Second))
		}
	}
	errs = append(errs, w.stopJobs(ctx, m, func(kernel string) bool {
		_, made := next[kernel]
		return !made && demand[kernel] != nil && len(errs) == 0
	}))
	w.makings.running(k, demand)
	err := errors.Join(errs...)
	w.noteImages(m, next, decided && err == nil)
	w.queue.AddAfter(imageWork+k, again)
	return err
}

// noteImages remembers how the images of a Module stand, and whether all have been
// decided upon, and tells who wants to know: nodes once the status has them.
func (w *Watcher) noteImages(m *v1beta1.Module, images map[string]v1beta1.ModuleImage, decided bool) {
	k := key(m.Namespace, m.Name)
	changed := w.makings.set(k, images)
	news := decided && w.makings.finish(m)
	if changed || news {
		w.queue.Add(moduleWork + k)
	}
	if changed {
		w.preflightsChanged()
	}
}

// demand is who wants the image of a Module for a kernel.
type demand struct {
	nodes   bool            // nodes have the kernel; else it is one to come
	missing map[string]bool // digests that a node could not pull since they are not there
}

// demandOf are the kernels that images are to be made for: those of nodes that take
// part, and those that somebody else asks for.
func (w *Watcher) demandOf(m *v1beta1.Module) map[string]*demand {
	k, out := key(m.Namespace, m.Name), map[string]*demand{}
	for _, obj := range w.nodes.GetStore().List() {
		n, ok := obj.(*corev1.Node)
		if !ok || n.Status.NodeInfo.KernelVersion == "" || !matches(m.Spec.Selector, n.Labels) {
			continue
		}
		c, _ := get[*config](w.configs, n.Name)
		e := c.entry(k)
		if takes, _ := TakesPart(m, n, e != nil); !takes {
			continue
		}
		kernel := n.Status.NodeInfo.KernelVersion
		if out[kernel] == nil {
			out[kernel] = &demand{nodes: true, missing: map[string]bool{}}
		}
		if st := c.state(k); st != nil && e != nil && e.Made != nil && st.reason.Value() == string(spec.ReasonImageNotFound) {
			for _, i := range e.Made.Images {
				out[kernel].missing[i.Digest] = true
			}
		}
	}
	for _, kernel := range w.makings.kernels(k) {
		if out[kernel] == nil {
			out[kernel] = &demand{}
		}
	}
	return out
}

// syncImage does what decide says about one image. made is false when the cluster
// does not make the one of this kernel; waits says that nothing could be decided yet,
// and an event comes when it can.
func (w *Watcher) syncImage(ctx context.Context, m *v1beta1.Module, kernel string, have v1beta1.ModuleImage, d *demand) (i v1beta1.ModuleImage, made, waits bool, err error) {
	r, err := build.For(m, kernel)
	if err != nil {
		return invalid(have, kernel, reasonCanNotBeMade, err), true, false, nil
	}
	if r == nil {
		return have, false, false, nil
	}
	if w.expect.behind(jobWork, key(m.Namespace, have.Job), w.jobSeen(m.Namespace, have.Job)) {
		return have, true, true, nil // an event will come
	}
	r.PullSecrets = w.pullSecretsOf(m)
	var missing *errMissing
	if err = w.addVersions(ctx, r); errors.As(err, &missing) {
		return w.unmakeable(ctx, m, r, have, err), true, false, nil
	}
	if err != nil {
		return have, have.State != "", false, err
	}
	now := time.Now()
	mk := making{
		have: have, kernel: kernel, image: r.Image, hash: r.Hash(), missing: d.missing[have.Digest],
		retry: w.cfg.Images.Retry, now: now,
	}
	job, busy, err := w.jobsOf(ctx, m, kernel, mk.hash)
	if err != nil || busy {
		return have, have.State != "", busy, err
	}
	mk.job = job.naming(r)
	next, do := mk.decide()
	if do == stepAsk {
		digest, err := w.lookup(ctx, m, r)
		mk.answer = &answer{digest, err}
		next, do = mk.decide()
	}
	if do == stepCreate {
		next.Job, err = w.createJob(ctx, r, build.Publish, next.Attempts, nil)
		if errors.Is(err, errFormer) {
			return have, have.State != "", true, nil // an event comes when it is gone
		}
		if err != nil {
			return mk.refused(err), true, false, err
		}
		next.Message = "the Job is about to start"
	}
	w.cfg.Metrics.made(have, next, job)
	return next, true, false, w.makeEvents(ctx, imageWork+key(m.Namespace, m.Name), imageEvents(m, r, have, next, now))
}

// unmakeable is an image that could not be made, since what goes into it is not
// there. One that is in the registry need not be.
func (w *Watcher) unmakeable(ctx context.Context, m *v1beta1.Module, r *build.Request, have v1beta1.ModuleImage, err error) v1beta1.ModuleImage {
	have = about(have, r.Kernel, r.Image)
	if have.Digest != "" && have.State == v1beta1.ImageReady || !due(&have, time.Now()) {
		return have
	}
	if have.Digest == "" {
		digest, asked := w.lookup(ctx, m, r)
		if asked == nil && digest != "" {
			have.Hash, have.Attempts, have.Job = "", 0, ""
			have.Since = metav1.NewTime(time.Now().Truncate(time.Second))
			return ready(have, digest)
		}
		err = errors.Join(err, asked)
	}
	i := invalid(have, r.Kernel, reasonMissing, err)
	i.RetryAt = retryAt(time.Now().Add(lookAgain))
	return i
}

// refused is an image whose Job the API server did not take. While there is none that
// was made before, it is known what it is to be made of, and when that is tried again.
func (m making) refused(err error) v1beta1.ModuleImage {
	i := invalid(about(m.have, m.kernel, m.image), m.kernel, reasonJobRefused, err)
	if i.Digest == "" {
		i.Hash, i.RetryAt = m.hash, retryAt(m.now.Add(lookAgain))
	}
	return i
}

// invalid is an image that can not be made as things are. What was made before
// stays; it is tried again with the next look.
func invalid(have v1beta1.ModuleImage, kernel, reason string, err error) v1beta1.ModuleImage {
	i := have
	i.Kernel, i.Stage, i.Message, i.RetryAt = kernel, stageBuild, shorten(err.Error(), maxConditionMessage), nil
	if i.State != v1beta1.ImageFailed || i.Reason != reason {
		i.State, i.Reason, i.Since = v1beta1.ImageFailed, reason, metav1.NewTime(time.Now().Truncate(time.Second))
	}
	return i
}
