// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/plan"
	"github.com/kmm-node/kmmd/pkg/source/file"
	"github.com/kmm-node/kmmd/pkg/spec"
)

const bootID = "11111111-2222-3333-4444-555555555555"

// fullStatus has every line that status can print.
func fullStatus() spec.Status {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	again := at.Add(time.Minute)
	loaded := spec.ModuleStatus{
		Namespace: "default", Name: "nic", State: spec.StateLoaded, Image: "registry/nic:1", Digest: "sha256:ab", Version: "2", Since: at,
		Kernel:   []spec.LoadedModule{{Name: "base", BuildID: "aa", Refs: 1}, {Name: "nic", BuildID: "bb", Parameters: []string{"a=1", "b=2"}}},
		Warnings: []string{"kernelMappings[1] is never reached"},
	}
	failed := spec.ModuleStatus{
		Namespace: "default", Name: "disk", State: spec.StateFailed, Reason: spec.ReasonInUse, Message: "brd is in use\nby two", RolledBack: true,
		Since: at, RetryAt: &again,
	}
	leaving := spec.ModuleStatus{Namespace: "default", Name: "old", State: spec.StatePending, Since: at}
	return spec.Status{
		Version: "v1", KernelRelease: "6.1.0-56-cloud-amd64", BootID: bootID, Time: at,
		Partial: true, ObservedGeneration: 3, Facts: spec.Facts{SecureBoot: "yes", Lockdown: "none", SignatureEnforced: "no"},
		Refused: []spec.ModuleStatus{{Namespace: "default", Name: "nic", Revision: "r1", State: spec.StateFailed, Reason: spec.ReasonConflict, Message: "in a file too", Since: at}},
		Modules: []spec.ModuleStatus{failed, loaded}, Leaving: []spec.ModuleStatus{leaving}, Invalid: []string{"x.yaml:1: bad"},
	}
}

func TestStatus(t *testing.T) {
	dir, config := root(t)
	require.NoError(t, os.Mkdir(filepath.Join(dir, "run"), 0o755))
	report := func(s spec.Status) {
		t.Helper()
		require.NoError(t, (&file.Source{Status: filepath.Join(dir, "run/status.json")}).Report(t.Context(), s))
	}
	_, err := kmmd(t, "status", "--config", config)
	require.ErrorContains(t, err, "has reported nothing since this boot")
	assert.Equal(t, 1, exitCode(err))

	report(fullStatus())
	out, err := kmmd(t, "status", "--config", config)
	assert.Equal(t, 1, exitCode(err))
	golden(t, "status.txt", out)
	out, err = kmmd(t, "status", "--config", config, "-o", "json")
	assert.Equal(t, 1, exitCode(err))
	var got spec.Status
	require.NoError(t, json.Unmarshal([]byte(out), &got))
	assert.Equal(t, fullStatus(), got)

	fine := fullStatus()
	fine.Modules, fine.Leaving, fine.Invalid, fine.Refused = fine.Modules[1:], nil, nil, nil
	report(fine)
	_, err = kmmd(t, "status", "--config", config)
	require.NoError(t, err)

	fine.BootID = "another"
	report(fine)
	_, err = kmmd(t, "status", "--config", config)
	require.ErrorContains(t, err, "has reported nothing since this boot", "of another boot")

	write(t, filepath.Join(dir, "run/status.json"), "{")
	_, err = kmmd(t, "status", "--config", config)
	require.ErrorContains(t, err, "run/status.json")
	assert.Equal(t, 1, exitCode(err))
}

// TestVerdict: documents that can not be used weigh more than modules.
func TestVerdict(t *testing.T) {
	bad := []error{&spec.Problem{File: "x.yaml", Message: "bad"}}
	assert.Equal(t, 0, exitCode(verdict(spec.Status{}, nil)))
	assert.Equal(t, 1, exitCode(verdict(fullStatus(), nil)))
	assert.Equal(t, 2, exitCode(verdict(fullStatus(), bad)))
	assert.Equal(t, 2, exitCode(verdict(spec.Status{}, bad)))
}

func TestPrintPlan(t *testing.T) {
	dummy := plan.File{Name: "dummy", Path: "/images/1/dummy.ko", Parameters: []string{"a=1"}}
	p := plan.Plan{Transactions: []plan.Transaction{
		{Owner: "default/gone", Leaving: true, Steps: []plan.Step{plan.Unload{Name: "old", Why: "its Module is gone"}}},
		{Owner: "default/held", Steps: []plan.Step{plan.Load{Owner: "default/held", File: dummy}}, Blocked: []plan.Block{{Reason: "InUse", Message: "dummy is in use"}}},
		{Owner: "default/met"},
		{Owner: "default/nic", Steps: []plan.Step{plan.Hold{Owner: "default/nic", Names: []string{"dummy"}}, plan.Load{Owner: "default/nic", File: dummy}}},
	}}
	var out strings.Builder
	require.NoError(t, printPlan(&out, p, map[string]plan.Block{"default/z": {Reason: "NoMapping", Message: "no kernel mapping matches"}, "default/y": {Reason: "ImageNotFound", Message: "none"}}, false))
	golden(t, "plan.txt", out.String())
	out.Reset()
	require.NoError(t, printPlan(&out, plan.Plan{}, nil, false))
	assert.Equal(t, "nothing is asked for\n", out.String())
}

// TestPlanOfNothing needs no kernel: nothing is asked for, and nothing is left
// behind.
func TestPlanOfNothing(t *testing.T) {
	dir, config := root(t)
	out, err := kmmd(t, "plan", "--config", config)
	require.NoError(t, err)
	assert.Equal(t, "nothing is asked for\n", out)
	for _, path := range []string{"state", "run", "firmware"} {
		assert.NoDirExists(t, filepath.Join(dir, path))
	}
	out, err = kmmd(t, "plan", "--config", config, "-o", "json")
	require.NoError(t, err)
	assert.JSONEq(t, `{"transactions": []}`, out)
}

func TestLock(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	first, err := lock(dir)
	require.NoError(t, err)
	_, err = lock(dir)
	require.ErrorContains(t, err, "another kmmd (pid "+strconv.Itoa(os.Getpid())+") looks after this node")
	require.NoError(t, first.Close())
	again, err := lock(dir)
	require.NoError(t, err, "it ends with its holder")
	require.NoError(t, again.Close())
}
