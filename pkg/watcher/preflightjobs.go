// SPDX-License-Identifier: Apache-2.0

package watcher

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
	"github.com/kmm-node/kmmd/pkg/api/v1beta2"
	"github.com/kmm-node/kmmd/pkg/build"
)

const (
	jobsByOwner   = "owner"
	preflightKind = "PreflightValidation"
)

// errOfNode is an image that is a directory or file of each node.
var errOfNode = errors.New("the image is a file of the node: only a node can look into it (kmmd image check)")

// ownerOfJob indexes Jobs by the UID of what they were made for.
func ownerOfJob(obj any) ([]string, error) {
	if j, ok := obj.(*batchv1.Job); ok {
		if c := metav1.GetControllerOf(j); c != nil {
			return []string{string(c.UID)}, nil
		}
	}
	return nil, nil
}

// preflightJobChanged has the validation looked at that a Job, or the Job of a pod,
// is for.
func (w *Watcher) preflightJobChanged(o metav1.Object) {
	c := metav1.GetControllerOf(o)
	if c != nil && c.Kind == "Job" {
		j, ok := get[*batchv1.Job](w.jobs, key(o.GetNamespace(), c.Name))
		if !ok {
			return // when it comes, that is an event too
		}
		c = metav1.GetControllerOf(j)
	}
	if c != nil && c.Kind == preflightKind {
		w.queue.AddAfter(preflightWork+c.Name, together)
	}
}

// preflightJobs are the last Jobs of each ID that a validation has made.
func (w *Watcher) preflightJobs(p *v1beta2.PreflightValidation) map[string]*batchv1.Job {
	out := map[string]*batchv1.Job{}
	for _, j := range w.jobsBy(jobsByOwner, string(p.UID)) {
		id := j.Labels[build.HashLabel]
		if j.DeletionTimestamp == nil && (out[id] == nil || attemptOf(out[id].Name) < attemptOf(j.Name)) {
			out[id] = j
		}
	}
	return out
}

// outcomesFor is what became of the Jobs for a Module, and what it asks for. What is secret
// in their logs has to be known by then.
func (w *Watcher) outcomesFor(m *v1beta1.Module, r *build.Request, jobs map[string]*batchv1.Job) map[string]*jobSeen {
	out := map[string]*jobSeen{}
	for id, j := range jobs {
		if j.Namespace != m.Namespace || j.Labels[v1beta1.ModuleNameLabel] != m.Name {
			continue
		}
		result := w.outcomeOf(j)
		if result.State == build.Failed && (result.Step == "sign" || result.Step == "check") {
			result.Message = withUnset(r, result.Message)
		}
		out[id] = &jobSeen{j.Name, attemptOf(j.Name), time.Since(j.CreationTimestamp.Time), result}
	}
	return out
}

// stopOthers ends Jobs that look at what is not wanted any more: the Module, or the
// validation, is another one.
func (w *Watcher) stopOthers(ctx context.Context, p *v1beta2.PreflightValidation, trials map[string]trial) error {
	wanted := map[string]bool{}
	for _, t := range trials {
		wanted[jobID(p.UID, &t)] = true
	}
	var errs []error
	for _, j := range w.jobsBy(jobsByOwner, string(p.UID)) {
		if !wanted[j.Labels[build.HashLabel]] {
			_, err := w.stopJob(ctx, j)
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// try takes the validation of one Module one step further.
func (w *Watcher) try(ctx context.Context, p *v1beta2.PreflightValidation, m *v1beta1.Module, have trial, jobs map[string]*batchv1.Job, now time.Time) (trial, error) {
	if have.job != "" && w.expect.behind(jobWork, key(m.Namespace, have.job), w.jobSeen(m.Namespace, have.job)) {
		return have, nil // an event will come
	}
	y := trying{have: have, uid: p.UID, push: p.Spec.PushBuiltImage, retry: w.cfg.Images.Retry, now: now}
	r, makes, err := w.validationOf(ctx, m, p.Spec.KernelVersion)
	var missing *errMissing
	switch {
	case r == nil || errors.Is(err, errOfNode):
		y.problem = err
	case errors.As(err, &missing) && r.Sign != nil && missing.what == "Secret "+key(m.Namespace, r.Sign.CertSecret):
		y.problem = err // the check wants it, too
	case missing != nil:
		y.lack, makes = err, false // an image that is there needs no Dockerfile
	case err != nil:
		return have, err
	}
	y.jobs = w.outcomesFor(m, r, jobs)
	if y.problem != nil {
		t, _ := y.decide()
		return t, nil
	}
	y.image, y.makes, y.hash, y.revision = r.Image, makes, r.Hash(), revisionOf(r, makes && y.push)
	if i, ok := w.makings.of(m)[p.Spec.KernelVersion]; ok {
		y.made = &i
	}
	next, do := y.decide()
	if do == stepAsk {
		digest, err := w.lookup(ctx, m, r)
		y.answer = &answer{digest, err}
		next, do = y.decide()
	}
	if do == stepCreate {
		job, err := w.createTrial(ctx, p, r, next)
		switch {
		case err != nil && ctx.Err() != nil:
			return have, err
		case err != nil && !errors.Is(err, errFormer): // else an event comes when that is gone
			return y.refused(next, err), nil
		}
		next.job = job
	}
	return next, nil
}

// validationOf is what a Module says of the kernel, and whether the cluster makes
// the image. Without a Request the error says why the Module can have none; beside
// one it is *errMissing, errOfNode, or one of asking the cluster.
func (w *Watcher) validationOf(ctx context.Context, m *v1beta1.Module, kernel string) (r *build.Request, makes bool, err error) {
	r, err = build.For(m, kernel)
	makes = r != nil
	if r == nil && err == nil {
		r, err = build.Plain(m, kernel)
	}
	switch {
	case err != nil:
		return nil, makes, err
	case strings.HasPrefix(r.Image, "oci:/") || strings.HasPrefix(r.Image, "oci-archive:/"):
		return r, makes, fmt.Errorf("%s: %w", r.Image, errOfNode)
	}
	r.PullSecrets = w.pullSecretsOf(m)
	return r, makes, w.addVersions(ctx, r)
}

// revisionOf stands for all that a validation is about.
func revisionOf(r *build.Request, pushed bool) string {
	return hashOf([]any{
		r.Hash(), pushed, r.Build != nil, r.Sign != nil, r.Modules, r.Parameters, r.ForceVermagic, r.DirName, r.FirmwarePath,
		r.RegistryTLS, r.PushSecret, r.PullSecrets, r.ServiceAccountName,
	})[:16]
}

// createTrial makes the Job that looks at an image.
func (w *Watcher) createTrial(ctx context.Context, p *v1beta2.PreflightValidation, r *build.Request, t trial) (name string, err error) {
	r.ID = jobID(p.UID, &t)
	if t.digest != "" && !strings.Contains(r.Image, "@") {
		r.Image += "@" + t.digest
	}
	owner := metav1.NewControllerRef(p, v1beta2.GroupVersion.WithKind(preflightKind))
	owner.BlockOwnerDeletion = nil // nobody waits for it
	return w.createJob(ctx, r, t.kind, t.attempt+1, owner)
}
