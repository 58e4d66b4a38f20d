// SPDX-License-Identifier: Apache-2.0

package watcher

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
	"github.com/kmm-node/kmmd/pkg/api/v1beta2"
)

// preflightWork on the queue is a look at a PreflightValidation.
const preflightWork = "preflight/"

// maxQuestions is how many registries are asked at a time for one
// PreflightValidation.
const maxQuestions = 4

// preflights are the validations that are known of, by name.
type preflights struct {
	mu     sync.Mutex // guards trials
	trials map[string]preflightTrials
	pace   statusPace
}

type preflightTrials struct {
	uid      types.UID
	byModule map[string]trial // by key
}

// of gives the trials of a validation; what its status says is where a new Watcher
// begins. The caller may change the map.
func (s *preflights) of(p *v1beta2.PreflightValidation) map[string]trial {
	s.mu.Lock()
	defer s.mu.Unlock()
	if have, ok := s.trials[p.Name]; ok && have.uid == p.UID {
		return maps.Clone(have.byModule)
	}
	out := map[string]trial{}
	for i := range p.Status.Modules {
		m := &p.Status.Modules[i]
		out[key(m.Namespace, m.Name)] = trialOf(m)
	}
	return out
}

func (s *preflights) set(p *v1beta2.PreflightValidation, trials map[string]trial) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.trials == nil {
		s.trials = map[string]preflightTrials{}
	}
	s.trials[p.Name] = preflightTrials{p.UID, trials}
}

func (s *preflights) forget(name string) {
	s.pace.forget(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.trials, name)
}

func (w *Watcher) preflightEvents() cache.ResourceEventHandler {
	look := func(obj any) { w.queue.Add(preflightWork + name(obj)) }
	return cache.ResourceEventHandlerFuncs{AddFunc: look, UpdateFunc: func(_, obj any) { look(obj) }, DeleteFunc: look}
}

// preflightsChanged has all validations looked at: a Module is another one.
func (w *Watcher) preflightsChanged() {
	for _, k := range w.validations.GetStore().ListKeys() {
		w.queue.AddAfter(preflightWork+k, together)
	}
}

// adoptPreflights asks for what an earlier Watcher was asked for, before anybody
// looks at what is wanted.
func (w *Watcher) adoptPreflights() {
	for _, obj := range w.validations.GetStore().List() {
		if p, ok := obj.(*v1beta2.PreflightValidation); ok && p.DeletionTimestamp == nil {
			w.askImages(p, w.validated())
		}
	}
}

// validated are the Modules that a validation is about, by key.
func (w *Watcher) validated() map[string]*v1beta1.Module {
	out := map[string]*v1beta1.Module{}
	for _, obj := range w.modules.GetStore().List() {
		if m, ok := obj.(*v1beta1.Module); ok && m.DeletionTimestamp == nil && m.Spec.ModuleLoader != nil {
			out[key(m.Namespace, m.Name)] = m
		}
	}
	return out
}

// askImages has images made for the kernel to come, if the validation wants them
// pushed. One that is not wanted any more is not asked for.
func (w *Watcher) askImages(p *v1beta2.PreflightValidation, modules map[string]*v1beta1.Module) {
	var makes []string
	if p.Spec.PushBuiltImage {
		for k, m := range modules {
			if makesImages(m) {
				makes = append(makes, k)
			}
		}
	}
	w.ask(p.Name, p.Spec.KernelVersion, makes)
}

func (w *Watcher) ask(name, kernel string, modules []string) {
	for _, k := range w.makings.ask(preflightWork+name, kernel, modules) {
		w.queue.Add(imageWork + k)
	}
}

// syncPreflight validates all Modules for one kernel, side by side, and looks
// again when something is due.
func (w *Watcher) syncPreflight(ctx context.Context, name string) error {
	p, ok := get[*v1beta2.PreflightValidation](w.validations, name)
	if !ok || p.DeletionTimestamp != nil { // its Jobs go with it
		w.ask(name, "", nil)
		w.preflights.forget(name)
		w.cfg.Metrics.forgetPreflight(name)
		w.expect.forget(preflightWork, name)
		return nil
	}
	if w.expect.behind(preflightWork, name, p.ResourceVersion) {
		w.queue.AddAfter(preflightWork+name, patience)
		return nil
	}
	modules, now := w.validated(), time.Now()
	w.askImages(p, modules)
	have := w.preflights.of(p)
	keys := slices.Sorted(maps.Keys(modules))
	trials, errs := w.tryAll(ctx, p, modules, keys, have, now)
	errs = append(errs, w.stopOthers(ctx, p, trials))
	w.preflights.set(p, trials)
	w.cfg.Metrics.preflight(name, trials)
	if again := nextTrial(trials, now); again > 0 {
		w.queue.AddAfter(preflightWork+name, again)
	}
	errs = append(errs, w.writePreflight(ctx, p, preflightStatus(p, keys, trials, now)))
	return errors.Join(errs...)
}

// tryAll takes the validation of each Module one step further. An error of one
// leaves it as it is.
func (w *Watcher) tryAll(ctx context.Context, p *v1beta2.PreflightValidation, modules map[string]*v1beta1.Module, keys []string, have map[string]trial, now time.Time) (map[string]trial, []error) {
	type outcome struct {
		trial trial
		err   error
	}
	outcomes := make([]outcome, len(keys))
	jobs := w.preflightJobs(p)
	var running sync.WaitGroup
	free := make(chan struct{}, maxQuestions)
	for i, k := range keys {
		free <- struct{}{}
		running.Go(func() {
			defer func() { <-free }()
			t, err := w.try(ctx, p, modules[k], have[k], jobs, now)
			outcomes[i] = outcome{t, err}
		})
	}
	running.Wait()
	trials, errs := map[string]trial{}, []error{}
	for i, o := range outcomes {
		if o.err != nil {
			errs = append(errs, o.err)
		}
		if o.trial.status == "" {
			o.trial = o.trial.progress(v1beta2.VerificationStageImage, "not looked at yet")
			o.trial.since = now.Truncate(time.Second)
		}
		trials[keys[i]] = o.trial
	}
	return trials, errs
}

// nextTrial is how long nothing has to be looked at by ourselves; 0 is for ever.
func nextTrial(trials map[string]trial, now time.Time) time.Duration {
	again := time.Duration(0)
	for _, t := range trials {
		wait := lookAgain // what goes into images may have changed
		switch {
		case t.status == v1beta2.VerificationSuccess:
			continue
		case !t.at.IsZero():
			wait = min(wait, max(t.at.Sub(now), time.Second))
		}
		if again == 0 || wait < again {
			again = wait
		}
	}
	return again
}

// writePreflight writes the status when it differs, and not too often.
func (w *Watcher) writePreflight(ctx context.Context, p *v1beta2.PreflightValidation, status v1beta2.PreflightValidationStatus) error {
	if apiequality.Semantic.DeepEqual(p.Status, status) {
		return nil
	}
	if wait := w.preflights.pace.wait(p.Name, len(status.Modules)); wait > 0 {
		w.queue.AddAfter(preflightWork+p.Name, wait)
		return nil
	}
	patch, err := json.Marshal([]map[string]any{
		{"op": "test", "path": "/metadata/uid", "value": p.UID},
		{"op": "add", "path": "/status", "value": status},
	})
	if err != nil {
		return fmt.Errorf("write status of PreflightValidation %s: %w", p.Name, err)
	}
	out, err := w.cfg.API.PreflightValidations().Patch(ctx, p.Name, types.JSONPatchType, patch, metav1.PatchOptions{}, "status")
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("write status of PreflightValidation %s: %w", p.Name, err)
	}
	w.cfg.Metrics.wrote("preflightvalidations/status")
	w.expect.wrote(preflightWork, p.Name, out.ResourceVersion)
	return nil
}
