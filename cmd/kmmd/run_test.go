// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/kmm-node/kmmd/pkg/source"
	"github.com/kmm-node/kmmd/pkg/spec"
)

func TestWrongDocumentIsToldOnce(t *testing.T) {
	var log bytes.Buffer
	sets := 0
	n := &node{log: slog.New(slog.NewTextHandler(&log, nil))}
	j := source.NewJoint(func(spec.Node) { sets++ })
	bad, worse := spec.Node{Invalid: []error{errors.New("bad")}}, spec.Node{Invalid: []error{errors.New("bad"), errors.New("worse")}}
	for _, files := range []spec.Node{bad, bad, worse, {}, bad} {
		n.setFiles(j, files, nil)
	}
	assert.Equal(t, 3, strings.Count(log.String(), "level=ERROR"), "%s", log.String())
	assert.Equal(t, 5, sets)
}
