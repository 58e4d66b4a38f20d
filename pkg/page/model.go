// SPDX-License-Identifier: Apache-2.0

package page

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
	"github.com/kmm-node/kmmd/pkg/api/v1beta2"
)

// What a page has at most: it is read by people, and made while nodes wait.
const (
	maxModules  = 300
	maxImages   = 200
	maxVerdicts = 200 // of one PreflightValidation
	maxChecks   = 20  // PreflightValidations
	maxText     = 600 // bytes of a message on the overview
)

// Overview is the first page.
type Overview struct {
	At          time.Time
	Nodes       int
	Modules     []ModuleRow
	MoreModules int
	Matrix      Matrix
	Images      []ImageRow
	MoreImages  int
	Validations []ValidationTable
	MoreChecks  int
}

// ModuleRow sums up a Module.
type ModuleRow struct {
	Namespace, Name string
	Deleting        bool
	Loaded, Wanted  int
	Counts          []Count // of states that some node is in, the worst first
	Progress        string  // of a rollout
	Trouble         string  // the reason of Degraded, or ""
	Why             string  // its message
}

// Count is how many nodes are in a state.
type Count struct {
	State State
	N     int
}

// ImageRow is one image that the cluster makes.
type ImageRow struct {
	Module string
	v1beta1.ModuleImage
	Text string // the message
}

// ValidationTable is one PreflightValidation. Modules that are not ready come first.
type ValidationTable struct {
	Name, Kernel string
	Verified     string // Yes, No, Not known yet
	Message      string
	Modules      []v1beta2.PreflightValidationModuleStatus
	More         int
}

// NewOverview makes the first page. Its size is bounded, however many nodes there
// are.
func NewOverview(c *Cluster) Overview {
	o := Overview{At: c.At, Nodes: c.Nodes, Matrix: newMatrix(c)}
	for i := range c.Modules {
		m := &c.Modules[i]
		if i < maxModules {
			o.Modules = append(o.Modules, newRow(m))
		}
		o.Images = append(o.Images, images(m)...)
	}
	o.MoreModules = max(0, len(c.Modules)-maxModules)
	// Those that are under way or have failed come first.
	slices.SortStableFunc(o.Images, func(a, b ImageRow) int { return imageRank(a.State) - imageRank(b.State) })
	o.Images, o.MoreImages = cut(o.Images, maxImages)
	checks, more := cut(c.Validations, maxChecks)
	o.MoreChecks = more
	for i := range checks {
		o.Validations = append(o.Validations, newValidation(&checks[i]))
	}
	return o
}

func newRow(m *Module) ModuleRow {
	r := ModuleRow{Namespace: m.Namespace, Name: m.Name, Deleting: m.Deleting, Counts: count(m.Nodes)}
	for _, n := range r.Counts {
		if n.State.wanted() {
			r.Wanted += n.N
		}
		if n.State == Loaded || n.State == Older {
			r.Loaded += n.N
		}
	}
	r.Progress = progress(m, r.Counts)
	if d := condition(m.Conditions, v1beta1.ConditionDegraded); d.Status == "True" {
		r.Trouble, r.Why = d.Reason, shorten(d.Message, maxText)
	}
	return r
}

// count nodes by state.
func count(nodes []Node) []Count {
	by := map[State]int{}
	for i := range nodes {
		by[nodes[i].State]++
	}
	var out []Count
	for s, n := range by {
		out = append(out, Count{s, n})
	}
	slices.SortFunc(out, func(a, b Count) int {
		return cmp.Or(cmp.Compare(a.State.rank(), b.State.rank()), cmp.Compare(a.State, b.State))
	})
	return out
}

// progress says how a rollout goes.
func progress(m *Module, counts []Count) string {
	changing, waiting, building := 0, 0, 0
	for _, c := range counts {
		switch c.State {
		case Changing:
			changing = c.N
		case Waiting:
			waiting = c.N
		case Building:
			building = c.N
		}
	}
	p := condition(m.Conditions, v1beta1.ConditionProgressing)
	what := ""
	switch {
	case m.Deleting:
		what = "Unloading"
	case p.Reason == "RolloutPaused":
		what = fmt.Sprintf("Paused, %d not begun", waiting)
	case changing+waiting > 0:
		what = fmt.Sprintf("%d changing, %d waiting", changing, waiting)
	case building > 0:
		return many(building, "waits", "wait") + " for an image"
	case p.Status == "True":
		what = p.Reason
	default:
		return "At rest"
	}
	if m.Rollout != nil && m.Rollout.MaxUnavailable != "" && !m.Deleting {
		what += ", at most " + m.Rollout.MaxUnavailable + " at a time"
	}
	return what
}

func imageRank(state string) int {
	return slices.Index([]string{v1beta1.ImageFailed, v1beta1.ImageBuilding, v1beta1.ImageReady}, state)
}

func images(m *Module) []ImageRow {
	var out []ImageRow
	for _, i := range m.Images {
		out = append(out, ImageRow{Module: m.Key(), ModuleImage: i, Text: shorten(i.Message, 4*maxText)})
	}
	return out
}

func newValidation(v *Validation) ValidationTable {
	c := condition(v.Conditions, v1beta2.ConditionVerified)
	t := ValidationTable{Name: v.Name, Kernel: v.Kernel, Verified: "Not known yet", Message: shorten(c.Message, maxText)}
	switch c.Status {
	case "True":
		t.Verified = "Yes"
	case "False":
		t.Verified = "No"
	}
	rank := func(s string) int {
		return slices.Index([]string{v1beta2.VerificationFailure, v1beta2.VerificationInProgress, v1beta2.VerificationSuccess}, s)
	}
	all := slices.Clone(v.Modules)
	slices.SortStableFunc(all, func(a, b v1beta2.PreflightValidationModuleStatus) int {
		return rank(a.VerificationStatus) - rank(b.VerificationStatus)
	})
	t.Modules, t.More = cut(all, maxVerdicts)
	for i := range t.Modules {
		t.Modules[i].StatusReason = shorten(t.Modules[i].StatusReason, maxText)
	}
	return t
}

// cut keeps the first ones, and says how many more there are.
func cut[T any](all []T, keep int) ([]T, int) {
	if len(all) <= keep {
		return all, 0
	}
	return all[:keep], len(all) - keep
}

// shorten keeps whole characters.
func shorten(s string, bytes int) string {
	if len(s) <= bytes {
		return s
	}
	return strings.ToValidUTF8(s[:bytes], "") + " …"
}
