// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/kernel"
	"github.com/kmm-node/kmmd/pkg/kmod"
	"github.com/kmm-node/kmmd/pkg/sign/image"
	"github.com/kmm-node/kmmd/pkg/spec"
)

var update = flag.Bool("update", false, "write the golden files again")

// annotated is the example of the KMM documentation.
const annotated = "../../pkg/spec/testdata/annotated.yaml"

// kmmd runs a command line. Whoever needs a configuration or a kernel gives
// the one of root: not those of the machine that the tests run on.
func kmmd(t *testing.T, args ...string) (stdout string, err error) {
	t.Helper()
	var out bytes.Buffer
	cmd := rootCommand()
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SetArgs(args)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute) // no command here runs on
	defer cancel()
	err = cmd.ExecuteContext(ctx)
	return out.String(), err
}

// golden compares with a file of testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		require.NoError(t, os.WriteFile(path, []byte(got), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err, "run the tests with -update once")
	assert.Equal(t, string(want), got)
}

func write(t *testing.T, path, content string) string {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, os.WriteFile(path, []byte(content), 0o644))
	return path
}

// root is a machine's / with a kernel that has no modules, and a configuration
// for it, whose path is returned.
func root(t *testing.T) (dir, configFile string) {
	t.Helper()
	dir = t.TempDir()
	for path, content := range map[string]string{
		"proc/sys/kernel/osrelease":                    "6.1.0-56-cloud-amd64\n",
		"proc/sys/kernel/random/boot_id":               "11111111-2222-3333-4444-555555555555\n",
		"proc/cmdline":                                 "quiet\n",
		"proc/modules":                                 "",
		"sys/module/firmware_class/parameters/path":    "\n",
		"lib/modules/6.1.0-56-cloud-amd64/modules.dep": "",
	} {
		write(t, filepath.Join(dir, path), content)
	}
	require.NoError(t, os.Mkdir(filepath.Join(dir, "modules.d"), 0o755))
	return dir, write(t, filepath.Join(dir, "kmmd.toml"), fmt.Sprintf(
		"host_root = %[1]q\nmodules_dir = '%[1]s/modules.d'\nstate_dir = '%[1]s/state'\nrun_dir = '%[1]s/run'\nfirmware_dir = '%[1]s/firmware'\n", dir))
}

func TestExitCode(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want int
	}{
		{nil, 0},
		{errNotAsWanted, 1},
		{fmt.Errorf("wrapped: %w", errNotAsWanted), 1},
		{errors.New("anything"), 1},
		{kernel.ErrPermission, 1},
		{kmod.ErrNotFound, 1},
		{usageError{errors.New("wrong")}, 2},
		{fmt.Errorf("wrapped: %w", usageError{errors.New("wrong")}), 2},
		{&spec.Problem{File: "x.yaml", Message: "bad"}, 2},
		{fmt.Errorf("wrapped: %w", &image.WriteError{Ref: "registry/x:v1", Err: errors.New("EOF")}), 3},
		{errors.Join(errors.New("x"), &spec.Problem{File: "x.yaml", Message: "bad"}), 2},
	} {
		t.Run(fmt.Sprint(tt.err), func(t *testing.T) { assert.Equal(t, tt.want, exitCode(tt.err)) })
	}
}

func TestCommandLine(t *testing.T) {
	dir, config := root(t)
	bad := write(t, filepath.Join(dir, "bad/bad.yaml"), "apiVersion: kmm.sigs.x-k8s.io/v1beta1\nkind: Module\nmetadata: {name: x}\nspec:\n  moduleloader: {}\n")
	good, err := os.ReadFile(config) // should it be taken after all, then for a machine of the test's own
	require.NoError(t, err)
	badConfig := write(t, filepath.Join(dir, "bad.toml"), "listen = ''\nlisten_on = 'x'\n"+string(good))
	const release = "--kernel=6.1.0"
	for _, tt := range []struct {
		args    []string
		code    int
		message string
	}{
		{[]string{"help"}, 0, ""},
		{[]string{}, 0, ""},
		{[]string{"--help"}, 0, ""},
		{[]string{"version"}, 0, ""},
		{[]string{"explain", "-f", annotated, release}, 0, ""},
		{[]string{"frobnicate"}, 2, `unknown command "frobnicate"`},
		{[]string{"--frobnicate"}, 2, "unknown flag: --frobnicate"},
		{[]string{"explain", "--frobnicate"}, 2, "unknown flag: --frobnicate"},
		{[]string{"version", "-o", "yaml"}, 2, "-o yaml: only json is known"},
		{[]string{"explain", "-o"}, 2, "flag needs an argument"},
		{[]string{"version", "extra"}, 2, `unexpected argument "extra"`},
		{[]string{"explain", "extra"}, 2, `unexpected argument "extra"`},
		{[]string{"run", "extra"}, 2, `unexpected argument "extra"`},
		{[]string{"run", "--offline"}, 2, "--offline goes with --once"},
		{[]string{"plan", "extra"}, 2, `unexpected argument "extra"`},
		{[]string{"status", "extra"}, 2, `unexpected argument "extra"`},
		{[]string{"deps"}, 2, "which module?"},
		{[]string{"deps", "--root", dir, "x"}, 2, "--root needs --kernel"},
		{[]string{"deps", "--root", dir, "--kernel", "5.0", "x"}, 1, "5.0"},
		{[]string{"explain", "-f", filepath.Join(dir, "none"), release}, 2, "no such file or directory"},
		{[]string{"explain", "-f", bad, release}, 2, bad + `:5: spec.moduleloader: unknown field; did you mean "moduleLoader"?`},
		{[]string{"explain", "--config", filepath.Join(dir, "none.toml")}, 2, "read configuration: open " + filepath.Join(dir, "none.toml")},
		{[]string{"explain", "--config", badConfig}, 2, badConfig + ":2: listen_on: unknown key"},
		{[]string{"run", "--once", "--config", badConfig}, 2, badConfig + ":2: listen_on: unknown key"},
		{[]string{"run", "--config", badConfig}, 2, badConfig + ":2: listen_on: unknown key"},
		{[]string{"plan", "--config", badConfig}, 2, badConfig + ":2: listen_on: unknown key"},
		{[]string{"status", "--config", badConfig}, 2, badConfig + ":2: listen_on: unknown key"},
		{[]string{"plan", "--config", config, "-f", filepath.Join(dir, "none")}, 2, "no such file or directory"},
		{[]string{"run", "--once", "--config", config, "-f", filepath.Join(dir, "none")}, 2, "no such file or directory"},
		{[]string{"plan", "--config", config, "-f", bad}, 2, "did you mean"},
	} {
		t.Run(strings.Join(tt.args, " "), func(t *testing.T) {
			_, err := kmmd(t, tt.args...)
			assert.Equal(t, tt.code, exitCode(err))
			if tt.code == 0 {
				require.NoError(t, err)
				return
			}
			assert.ErrorContains(t, err, tt.message)
		})
	}
}

func TestVersion(t *testing.T) {
	out, err := kmmd(t, "version")
	require.NoError(t, err)
	assert.Regexp(t, `^kmmd \S.* go1\.\S+ linux/\w+\n$`, out)
	out, err = kmmd(t, "version", "-o", "json")
	require.NoError(t, err)
	assert.Regexp(t, `(?s)^\{.*"go": "go1.*"platform": "linux/.*"version": ".+".*\}\n$`, out)
}

func TestHelp(t *testing.T) {
	out, err := kmmd(t, "help")
	require.NoError(t, err)
	for _, word := range []string{"run", "plan", "status", "explain", "deps", "sign", "version", "Exit codes: 0 all well"} {
		assert.Contains(t, out, word)
	}
}
