// SPDX-License-Identifier: Apache-2.0

package plan_test

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/plan"
)

// TestSteps has one row for each kind of step: its name on the wire and in
// metrics, its sentence, and whether it changes the node.
func TestSteps(t *testing.T) {
	dummy := image("dummy", "level=1")
	for _, tt := range []struct {
		step    plan.Step
		kind    string
		text    string
		changes bool
	}{
		{plan.Hold{Owner: nic, Names: []string{"a", "b"}}, "hold", "hold off modprobe and udev: a, b", true},
		{plan.Hold{Owner: nic}, "hold", "let modprobe and udev load again what was held off", true},
		{plan.Unload{Name: "dummy", Why: "because"}, "unload", "unload dummy (because)", true},
		{plan.Load{Owner: nic, File: dummy}, "load", "load dummy from /images/1/dummy.ko with level=1", true},
		{plan.Load{Owner: nic, File: soft(inTree("x"))}, "load", "load x from /lib/modules/6.1/x.ko (softdep)", true},
		{plan.InstallFirmware{Owner: nic, Dir: "/d"}, "install-firmware", "install the firmware of /d", true},
		{plan.RemoveFirmware{Owner: nic}, "remove-firmware", "remove the firmware of default/nic", true},
		{plan.SetFirmwarePath{Path: "/p"}, "set-firmware-path", "point firmware_class.path to /p", true},
		{plan.SetFirmwarePath{}, "set-firmware-path", "unset firmware_class.path", true},
		{plan.Adopt{Owner: nic, File: dummy}, "adopt", "adopt dummy: it runs already (build-id image-1-dumm)", false},
		{plan.Forget{Owner: nic, Name: "dummy"}, "forget", "forget dummy: no longer for default/nic", false},
	} {
		t.Run(tt.text, func(t *testing.T) {
			assert.Equal(t, tt.kind, plan.Kind(tt.step))
			assert.Equal(t, tt.text, tt.step.String())
			assert.Equal(t, tt.changes, plan.Changes(tt.step))
		})
	}
}

func TestPlanChanges(t *testing.T) {
	load, adopt := plan.Load{Owner: nic, File: image("dummy")}, plan.Adopt{Owner: nic, File: image("dummy")}
	for _, tt := range []struct {
		name    string
		ts      []plan.Transaction
		changes bool
	}{
		{"empty", nil, false},
		{"without steps", []plan.Transaction{{Owner: nic}}, false},
		{"ledger only", []plan.Transaction{{Owner: nic, Steps: []plan.Step{adopt}}}, false},
		{"load", []plan.Transaction{{Owner: disk}, {Owner: nic, Steps: []plan.Step{adopt, load}}}, true},
		{"blocked", []plan.Transaction{{Owner: nic, Steps: []plan.Step{load}, Blocked: []plan.Block{{Reason: "InUse"}}}}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := plan.Plan{Transactions: tt.ts}
			assert.Equal(t, tt.changes, p.Changes())
		})
	}
}

func TestPlanJSON(t *testing.T) {
	p := plan.Plan{Transactions: []plan.Transaction{
		{Owner: nic, Steps: []plan.Step{
			plan.Unload{Name: "dummy", Why: "in-tree module to be replaced", Undo: &plan.File{Name: "dummy", Path: "/lib/dummy.ko", FromHost: true}},
			plan.SetFirmwarePath{},
		}},
		{Owner: disk, Leaving: true, Blocked: []plan.Block{{Reason: "InUse", Message: "held"}}},
	}}
	got, err := json.Marshal(p)
	require.NoError(t, err)
	assert.JSONEq(t, `{"transactions": [
		{"owner": "default/nic", "steps": [
			{"step": "unload", "text": "unload dummy (in-tree module to be replaced)", "args":
				{"name": "dummy", "why": "in-tree module to be replaced", "undo": {"name": "dummy", "path": "/lib/dummy.ko", "fromHost": true}}},
			{"step": "set-firmware-path", "text": "unset firmware_class.path", "args": {"path": ""}}]},
		{"owner": "default/disk", "leaving": true, "steps": [], "blocked": [{"reason": "InUse", "message": "held"}]}]}`, string(got))
}

func TestDiffering(t *testing.T) {
	shown := map[string]string{"level": "5", "label": "x", "on": "Y", "my_name": "3"}
	for _, tt := range []struct{ name, parameter, want string }{
		{"same", "level=0x5", ""},
		{"other", "level=6", `level is "5", wanted "6"`},
		{"not shown", "secret=1", ""},
		{"bool by its name only", "on", ""},
		{"bool off", "on=0", `on is "Y", wanted "0"`},
		{"dash and underscore are the same", "my-name=3", ""},
		{"type unknown", "my_name=4", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := image("dummy", tt.parameter)
			assert.Equal(t, tt.want, plan.Differing(&f, shown))
		})
	}
}
