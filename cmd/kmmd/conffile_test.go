// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"testing"

	"github.com/pelletier/go-toml/v2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/exit"
)

// The configuration file of the packages has every key, with its default.
func TestConfigurationOfPackages(t *testing.T) {
	const file = "../../deploy/packages/kmmd.toml"
	as, err := readConfig(file)
	require.NoError(t, err)
	assert.Equal(t, defaultConfig(), as, "as it is installed")

	b, err := os.ReadFile(file)
	require.NoError(t, err)
	b = regexp.MustCompile(`(?m)^#(\w+ = )`).ReplaceAll(b, []byte("$1"))
	all, err := readConfig(write(t, filepath.Join(t.TempDir(), "kmmd.toml"), string(b)))
	require.NoError(t, err)
	want := defaultConfig()
	want.AllowInUse = []string{} // an empty list is none, too
	want.Policy = policy{AllowedRepositories: []string{}, SignatureKeys: []string{}, NeverLoad: []string{}, NeverRemove: []string{}}
	assert.Equal(t, want, all, "with every # removed")

	var keys map[string]any
	require.NoError(t, toml.Unmarshal(b, &keys))
	assertKeys(t, "", reflect.TypeFor[config](), keys)
}

// TestUnitIsNotStartedInVain: systemd knows the exit code after which another try is
// of no use.
func TestUnitIsNotStartedInVain(t *testing.T) {
	unit, err := os.ReadFile("../../deploy/systemd/kmmd.service")
	require.NoError(t, err)
	assert.Contains(t, string(unit), fmt.Sprintf("\nRestartPreventExitStatus=%d\n", exit.Usage))
}

// assertKeys wants each field that TOML can set among keys.
func assertKeys(t *testing.T, table string, of reflect.Type, keys map[string]any) {
	t.Helper()
	for field := range of.Fields() {
		name := field.Tag.Get("toml")
		if !assert.Contains(t, keys, name, "key of %s", table) {
			continue
		}
		if inner, ok := keys[name].(map[string]any); ok {
			assertKeys(t, name, field.Type, inner)
		}
	}
}
