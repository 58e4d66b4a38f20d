// SPDX-License-Identifier: Apache-2.0

package plan_test

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/plan"
)

var update = flag.Bool("update", false, "write the golden files again")

const (
	nic       = "default/nic" // the owner of most cases
	disk      = "default/disk"
	firmwares = "/var/lib/firmware"
)

// planCase is one plan to be made. Wanted are the owners of wants unless given.
type planCase struct {
	name  string
	wants []plan.Want
	facts plan.Facts
}

// golden makes the plan of every case and compares it with its section of
// testdata/<group>.txt.
func golden(t *testing.T, group string, cases []planCase) {
	t.Helper()
	path := filepath.Join("testdata", group+".txt")
	got := map[string]string{}
	var text strings.Builder
	for _, tt := range cases {
		require.NotContains(t, got, tt.name, "a name stands for one case")
		got[tt.name] = render(plan.Make(tt.wants, complete(tt.facts, tt.wants)))
		fmt.Fprintf(&text, "-- %s --\n%s", tt.name, got[tt.name])
	}
	if *update {
		require.NoError(t, os.WriteFile(path, []byte(text.String()), 0o644))
	}
	want := sections(t, path)
	for _, tt := range cases {
		t.Run(tt.name, func(t *testing.T) {
			assert.Equal(t, want[tt.name], got[tt.name])
		})
	}
	assert.ElementsMatch(t, slices.Collect(maps.Keys(got)), slices.Collect(maps.Keys(want)), "each section of %s has a case", path)
}

// sections reads "-- name --" lines and what stands below each.
func sections(t *testing.T, path string) map[string]string {
	t.Helper()
	data, err := os.ReadFile(path)
	require.NoError(t, err, "run the tests with -update once")
	out := map[string]string{}
	name := ""
	for line := range strings.Lines(string(data)) {
		if title, ok := strings.CutPrefix(line, "-- "); ok {
			name = strings.TrimSuffix(title, " --\n")
			out[name] = ""
			continue
		}
		out[name] += line
	}
	return out
}

// render shows a plan with what a rollback would do.
func render(p plan.Plan) string {
	var b strings.Builder
	for _, t := range p.Transactions {
		b.WriteString(t.Owner)
		if t.Leaving {
			b.WriteString(" leaves")
		}
		b.WriteString(":\n")
		for _, block := range t.Blocked {
			fmt.Fprintf(&b, "  blocked, %s: %s\n", block.Reason, block.Message)
		}
		for _, s := range t.Steps {
			b.WriteString("  " + s.String() + details(s) + "\n")
		}
		if len(t.Steps)+len(t.Blocked) == 0 {
			b.WriteString("  nothing to do\n")
		}
	}
	return b.String()
}

// details are the fields of a step which its sentence leaves out.
func details(s plan.Step) string {
	switch s := s.(type) {
	case plan.Unload:
		text := ""
		if s.Ours {
			text = ", ours"
		}
		if s.Undo != nil {
			text += fmt.Sprintf(", back from %s %q", s.Undo.Path, s.Undo.Parameters)
			if len(s.Undo.Unseen) > 0 {
				text += fmt.Sprintf(" unseen %q", s.Undo.Unseen)
			}
		}
		return text
	case plan.InstallFirmware:
		if s.Previous != "" {
			return ", back from " + s.Previous
		}
	}
	return ""
}

// complete fills in what is the same in nearly every case.
func complete(f plan.Facts, wants []plan.Want) plan.Facts {
	f.FirmwareTarget = firmwares
	f.Wanted = maps.Clone(f.Wanted)
	if f.Wanted == nil {
		f.Wanted = map[string]bool{}
	}
	for _, w := range wants {
		f.Wanted[w.Owner] = true
	}
	return f
}

// image is a file out of a container image; its build-id tells so.
func image(name string, parameters ...string) plan.File {
	return plan.File{Name: name, Path: "/images/1/" + name + ".ko", BuildID: "image-1-" + name, Parameters: parameters,
		Types: map[string]string{"level": "int", "label": "charp", "on": "bool"}}
}

// newer is the same module out of a newer image.
func newer(f plan.File) plan.File {
	f.Path, f.BuildID = "/images/2/"+f.Name+".ko", "image-2-"+f.Name
	return f
}

// again is the same build in another image.
func again(f plan.File) plan.File {
	f.Path = "/images/3/" + f.Name + ".ko"
	return f
}

// inTree is the node's own file.
func inTree(name string) plan.File {
	return plan.File{Name: name, Path: "/lib/modules/6.1/" + name + ".ko", BuildID: "host-" + name, FromHost: true}
}

// typed is a file whose parameters are known.
func typed(f plan.File) plan.File {
	f.Types = map[string]string{"level": "int", "label": "charp", "on": "bool", "odd": "", "list": "int", "secret": "int"}
	return f
}

// soft is a file that only a softdep asks for.
func soft(f plan.File) plan.File {
	f.Optional = true
	return f
}

// bare is a file without a build-id.
func bare(f plan.File) plan.File {
	f.BuildID = ""
	return f
}

// wants is a Module's want: the files in load order.
func wants(owner string, files ...plan.File) plan.Want { return plan.Want{Owner: owner, Files: files} }

// removing adds what has to leave first.
func removing(w plan.Want, names ...string) plan.Want {
	w.Remove = names
	return w
}

// live is a file that runs, used by other modules.
func live(f plan.File, usedBy ...string) plan.Loaded {
	return plan.Loaded{Name: f.Name, State: "live", BuildID: f.BuildID, Refs: len(usedBy), UsedBy: usedBy, Parameters: shown(f.Parameters)}
}

func shown(parameters []string) map[string]string {
	out := map[string]string{}
	for _, p := range parameters {
		name, value, _ := strings.Cut(p, "=")
		out[name] = value
	}
	return out
}

// held gives a module references that no module has.
func held(l plan.Loaded, n int) plan.Loaded {
	l.Refs += n
	return l
}

// place gives a module its place in the kernel's list; the newest is 0.
func place(l plan.Loaded, n int) plan.Loaded {
	l.Place = n
	return l
}

// dependency is a file that no document names.
func dependency(f plan.File) plan.File {
	f.Dependency = true
	return f
}

// ordered gives a want the order that its document has, in load order.
func ordered(w plan.Want, names ...string) plan.Want {
	w.Order = names
	return w
}

func permanent(l plan.Loaded) plan.Loaded {
	l.Permanent = true
	return l
}

func inState(l plan.Loaded, state string) plan.Loaded {
	l.State = state
	return l
}

func withParameters(l plan.Loaded, parameters ...string) plan.Loaded {
	l.Parameters = shown(parameters)
	return l
}

// running is Facts.Loaded.
func running(modules ...plan.Loaded) map[string]plan.Loaded {
	out := map[string]plan.Loaded{}
	for _, m := range modules {
		out[m.Name] = m
	}
	return out
}

// entry is a line of the ledger.
func entry(f plan.File, owners ...string) plan.Entry { return plan.Entry{Owners: owners, File: f} }

// ledger is Facts.Ours.
func ledger(entries ...plan.Entry) map[string]plan.Entry {
	out := map[string]plan.Entry{}
	for _, e := range entries {
		out[e.File.Name] = e
	}
	return out
}

// files is Facts.InTree.
func files(list ...plan.File) map[string]*plan.File {
	out := map[string]*plan.File{}
	for _, f := range list {
		out[f.Name] = &f
	}
	return out
}

func set(names ...string) map[string]bool {
	out := map[string]bool{}
	for _, n := range names {
		out[n] = true
	}
	return out
}
