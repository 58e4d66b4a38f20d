// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"fmt"
	"slices"

	"github.com/kmm-node/kmmd/pkg/kernel"
	"github.com/kmm-node/kmmd/pkg/kmod"
	"github.com/kmm-node/kmmd/pkg/plan"
	"github.com/kmm-node/kmmd/pkg/preflight"
	"github.com/kmm-node/kmmd/pkg/spec"
)

// Preflight gathers what is known of the running kernel's loader.
type Preflight interface {
	Kernel(tree *kmod.Tree, modules []preflight.Module, leaving []string) (*preflight.Kernel, error)
}

// check judges every transaction that loads something: what the kernel will
// refuse for certain blocks it, the rest stands in its notes.
func (a *Agent) check(p *plan.Plan, f plan.Facts) {
	for i := range p.Transactions {
		t := &p.Transactions[i]
		r := a.resolved[t.Owner]
		if a.cfg.Preflight == nil || r == nil || r.want == nil || len(t.Blocked) > 0 || !slices.ContainsFunc(t.Steps, isLoad) {
			continue
		}
		findings, err := a.findings(r, r.want.Files, t.Unloads, f)
		if err != nil {
			t.Notes = append(t.Notes, fmt.Sprintf("preflight: %v", err))
			continue
		}
		for _, finding := range findings {
			if finding.Level == preflight.Error {
				t.Blocked = append(t.Blocked, plan.Block{Reason: string(finding.Reason), Message: finding.String()})
			} else {
				t.Notes = append(t.Notes, finding.String())
			}
		}
		if len(t.Blocked) > 0 {
			t.Steps = nil
		}
	}
}

func isLoad(s plan.Step) bool {
	_, ok := s.(plan.Load)
	return ok
}

// findings are those about files that have to load; a softdep may fail.
func (a *Agent) findings(r *resolution, files []plan.File, leaving []string, f plan.Facts) ([]preflight.Finding, error) {
	modules, k, err := a.examine(r, files, leaving, f)
	if err != nil {
		return nil, err
	}
	optional := map[string]bool{}
	for _, file := range files {
		optional[file.Name] = file.Optional
	}
	return slices.DeleteFunc(preflight.Check(modules, k), func(finding preflight.Finding) bool { return optional[finding.Module] }), nil
}

// examine reads the files, each once, and what is known of the kernel.
func (a *Agent) examine(r *resolution, files []plan.File, leaving []string, f plan.Facts) ([]preflight.Module, *preflight.Kernel, error) {
	var modules []preflight.Module
	for _, file := range files {
		parsed := r.parsed[file.Path]
		if parsed == nil {
			var err error
			if parsed, err = kmod.ReadFile(file.Path); err != nil {
				return nil, nil, err
			}
			r.parsed[file.Path] = parsed
		}
		if err := parsed.Examine(); err != nil {
			return nil, nil, err
		}
		l, runs := f.Loaded[file.Name]
		modules = append(modules, preflight.Module{
			File: parsed, Parameters: file.Parameters, IgnoreVermagic: file.IgnoreVermagic, IgnoreModversions: file.IgnoreModversions,
			Loaded: runs && l.BuildID == file.BuildID && !slices.Contains(leaving, file.Name),
		})
	}
	k, err := a.cfg.Preflight.Kernel(a.host, modules, leaving)
	return modules, k, err
}

// Signatures tells in words what the kernel wants of signatures, and what it will say to that of each module file of
// each Module, by the Module's key. It goes by what the last call of Plan or Reconcile has found.
func (a *Agent) Signatures() (policy []string, answers map[string][]string, err error) {
	if a.cfg.Preflight == nil {
		return nil, nil, nil
	}
	answers = make(map[string][]string)
	for key, r := range a.resolved {
		if r.want == nil {
			continue
		}
		modules, k, err := a.examine(r, r.want.Files, nil, plan.Facts{})
		if err != nil {
			return nil, nil, err
		}
		for i := range modules {
			answers[key] = append(answers[key], modules[i].File.Info.Name+": "+k.Signature(&modules[i]).String())
		}
	}
	k, err := a.cfg.Preflight.Kernel(a.host, nil, nil)
	if err != nil {
		return nil, nil, err
	}
	return k.Policy().Lines(), answers, nil
}

// signed says who has signed a module that the kernel refused for its signature: it has hardly a word for that itself.
func (a *Agent) signed(owner string, refusal error) string {
	r, of := a.resolved[owner], (*kernel.Error)(nil)
	if a.cfg.Preflight == nil || r == nil || r.want == nil || !errors.As(refusal, &of) {
		return ""
	}
	modules, k, err := a.examine(r, r.want.Files, nil, plan.Facts{})
	if err != nil {
		return ""
	}
	i := slices.IndexFunc(modules, func(m preflight.Module) bool { return m.File.Info.Name == of.Module })
	if i < 0 {
		return ""
	}
	return "; it is " + k.Signature(&modules[i]).Reason
}

// alsoWrong adds to what is wrong with a Module's files what else the kernel
// would refuse: one report has it all.
func (a *Agent) alsoWrong(r *resolution, want *plan.Want) string {
	if a.cfg.Preflight == nil {
		return ""
	}
	findings, err := a.findings(r, want.Files, want.Remove, plan.Facts{})
	if err != nil {
		return ""
	}
	text := ""
	for _, f := range findings {
		// These have been said, with more of an explanation.
		if f.Level == preflight.Error && f.Reason != spec.ReasonWrongKernel && f.Reason != spec.ReasonInvalidParameter {
			text += "\n" + f.String()
		}
	}
	return text
}
