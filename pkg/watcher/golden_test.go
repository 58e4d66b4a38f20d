// SPDX-License-Identifier: Apache-2.0

package watcher_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
)

var update = flag.Bool("update", false, "write the golden files again")

// golden compares objects with the documents of a YAML file.
func golden(t *testing.T, path string, objects ...any) {
	t.Helper()
	var text bytes.Buffer
	enc := yaml.NewEncoder(&text)
	enc.SetIndent(2)
	for _, o := range objects {
		asJSON, err := json.Marshal(o)
		require.NoError(t, err)
		var plain any
		require.NoError(t, yaml.Unmarshal(asJSON, &plain)) // YAML keeps whole numbers whole
		require.NoError(t, enc.Encode(plain))
	}
	require.NoError(t, enc.Close())
	if *update {
		require.NoError(t, os.WriteFile(path, text.Bytes(), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.Equal(t, string(want), text.String())
}

// modules reads testdata/plugins/*.module.yaml, by the first part of the name.
func modules(t *testing.T) map[string]*v1beta1.Module {
	t.Helper()
	paths, err := filepath.Glob("testdata/plugins/*.module.yaml")
	require.NoError(t, err)
	require.NotEmpty(t, paths)
	all := map[string]*v1beta1.Module{}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		var plain any
		require.NoError(t, yaml.Unmarshal(text, &plain), path)
		asJSON, err := json.Marshal(plain)
		require.NoError(t, err)
		strict := json.NewDecoder(bytes.NewReader(asJSON))
		strict.DisallowUnknownFields()
		m := &v1beta1.Module{}
		require.NoError(t, strict.Decode(m), path)
		all[strings.TrimSuffix(filepath.Base(path), ".module.yaml")] = m
	}
	return all
}
