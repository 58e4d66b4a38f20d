// SPDX-License-Identifier: Apache-2.0

package reference

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/kmm-node/kmmd/test/reference/markdown"
)

const remedies = "../troubleshooting.md"

// Reasons is docs/reference/reasons.md: the closed lists of states, conditions,
// reasons and events.
func (c *Code) Reasons() (string, error) {
	p := newPage("States, conditions, reasons, events", "the constants of pkg/")
	p.paragraph("All words that a status may have. What brings each reason about and what to do is in [troubleshooting.md](" + remedies + ").")
	for _, step := range []func(*page) error{c.states, c.nodeReasons, c.conditions, c.otherReasons} {
		if err := step(p); err != nil {
			return "", err
		}
	}
	return p.String(), nil
}

// constantsOf writes a section for each group of constants of a package whose names
// match.
func (c *Code) constantsOf(p *page, dir, names, head string) error {
	s, err := c.Package(dir)
	if err != nil {
		return err
	}
	is := regexp.MustCompile(names)
	return p.choose(s, head, head+"s in "+dir, func(n Constant) bool { return is.MatchString(n.Name) })
}

// choose writes sections of what want takes.
func (p *page) choose(s *Source, head, what string, want func(Constant) bool) error {
	list, err := s.Choose(what, want)
	if err != nil {
		return err
	}
	p.sections(head, list)
	return nil
}

// sections writes one for each group of constants.
func (p *page) sections(head string, list []Constant) {
	for _, group := range groups(list) {
		title, more, _ := strings.Cut(strings.Join(strings.Fields(group[0].Group), " "), ". ")
		p.heading(2, "%s", strings.TrimSuffix(title, "."))
		p.paragraph(prose(more))
		p.constants(head, group)
	}
}

func (c *Code) states(p *page) error {
	for _, of := range []struct{ dir, names, head string }{
		{apiV1beta1, `^State[A-Z]`, "state"}, {apiV1beta1, `^Image(Building|Ready|Failed)$`, "state"}, {"pkg/watcher", `^stage[A-Z]`, "stage"},
		{apiV1beta2, `^Verification(Success|Failure|InProgress)$`, "state"}, {apiV1beta2, `^VerificationStage`, "stage"},
	} {
		if err := c.constantsOf(p, of.dir, of.names, of.head); err != nil {
			return err
		}
	}
	shown, err := c.Package("pkg/page")
	if err != nil {
		return err
	}
	return p.choose(shown, "state", "states of the page", OfType("State"))
}

func (c *Code) nodeReasons(p *page) error {
	s, err := c.Package("pkg/spec")
	if err != nil {
		return err
	}
	list, err := s.Choose("reasons of a node", OfType("Reason"))
	if err != nil {
		return err
	}
	p.heading(2, "Reasons of a Module on a node")
	p.paragraph("In `kmmd status`, in `status.modules` of a NodeModulesConfig, in the label `reason` of kmmd's metrics.")
	var rows [][]string
	for _, r := range list {
		rows = append(rows, []string{"[" + code(r.Value) + "](" + remedies + "#" + markdown.Anchor(r.Value) + ")", meaning(r)})
	}
	p.table([]string{"reason", "meaning"}, rows)
	return nil
}

func (c *Code) conditions(p *page) error {
	for _, dir := range []string{apiV1beta1, apiV1beta2} {
		if err := c.constantsOf(p, dir, `^Condition[A-Z]`, "condition"); err != nil {
			return err
		}
	}
	return nil
}

// otherReasons are those of the cluster's side, by what stands above them in the
// code, in the order of the page.
var otherReasons = []struct{ dir, group string }{
	{"pkg/watcher", "Reasons of a Module's conditions"},
	{"pkg/watcher", "Reasons of the condition Verified"},
	{"pkg/watcher", "Reasons of Events on Modules"},
	{"pkg/watcher", "Reasons of Events on Nodes"},
	{"pkg/watcher", "Reasons of an image"},
	{"pkg/build", "Reasons of a Job"},
}

func (c *Code) otherReasons(p *page) error {
	told := map[Constant]bool{}
	for _, of := range otherReasons {
		s, err := c.Package(of.dir)
		if err != nil {
			return err
		}
		list, err := s.Choose("reasons ("+of.group+")", Group(of.group))
		if err != nil {
			return err
		}
		p.sections("reason", list)
		for _, r := range list {
			told[r] = true
		}
	}
	for _, of := range otherReasons {
		for _, r := range c.read[of.dir].Constants {
			if isReason.MatchString(r.Name) && !told[r] {
				return fmt.Errorf("constant %s of %s is in none of the lists of reasons: add what stands above it to otherReasons", r.Name, of.dir)
			}
		}
	}
	return nil
}

var isReason = regexp.MustCompile(`^[rR]eason[A-Z]`)
