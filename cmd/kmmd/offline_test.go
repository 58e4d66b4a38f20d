// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestOfflineAsksNoRegistry(t *testing.T) {
	var asked atomic.Int64
	registry := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		http.NotFound(w, nil)
	}))
	defer registry.Close()
	dir, config := root(t)
	write(t, filepath.Join(dir, "modules.d/a.yaml"), `apiVersion: kmm.sigs.x-k8s.io/v1beta1
kind: Module
metadata: {name: a}
spec:
  moduleLoader:
    container:
      modprobe: {moduleName: a}
      imagePullPolicy: Always
      registryTLS: {insecure: true}
      kernelMappings: [{regexp: ., containerImage: "`+strings.TrimPrefix(registry.URL, "http://")+`/a:1"}]
`)
	out, err := kmmd(t, "run", "--once", "--offline", "--config", config)
	assert.ErrorIs(t, err, errNotAsWanted)
	assert.Contains(t, out, "image not in the store")
	assert.Zero(t, asked.Load(), "requests")

	_, err = kmmd(t, "run", "--once", "--config", config)
	assert.ErrorIs(t, err, errNotAsWanted)
	assert.NotZero(t, asked.Load(), "requests")
}
