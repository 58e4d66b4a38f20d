// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
	"github.com/kmm-node/kmmd/pkg/exit"
	"github.com/kmm-node/kmmd/pkg/images/imagestest"
	"github.com/kmm-node/kmmd/pkg/watcher"
)

// TestLookup: that there is no image is an answer; that nobody answers is none.
func TestLookup(t *testing.T) {
	r := imagestest.NewRegistry(t)
	want := imagestest.Push(t, r.Host+"/kmod:1", imagestest.Layer(t, map[string]string{"a": "a"}))
	ask := func(image string) (string, error) {
		return lookup(t.Context(), watcher.ImageRequest{Image: image, TLS: v1beta1.TLSOptions{Insecure: true}})
	}
	digest, err := ask(r.Host + "/kmod:1")
	require.NoError(t, err)
	assert.Equal(t, want, digest)
	digest, err = ask(r.Host + "/kmod:2")
	require.NoError(t, err)
	assert.Empty(t, digest)
	r.Close()
	_, err = ask(r.Host + "/kmod:1")
	assert.Error(t, err)
}

func TestImageFlags(t *testing.T) {
	for _, tt := range []struct {
		args []string
		says string // of what is wrong; nothing is fine
	}{
		{args: nil},
		{args: []string{"--builder=buildah", "--agent-image=x", "--build-pull-policy=Never", "--build-user-namespaces"}},
		{args: []string{"--builder=docker"}, says: `builder "docker"`},
		{args: []string{"--build-pull-policy=Sometimes"}, says: "--build-pull-policy"},
		{args: []string{"--build-retry=0s"}, says: "--build-retry"},
		{args: []string{"--build-deadline=-1s"}, says: "deadline"},
	} {
		o := imageFlags{}
		cmd := &cobra.Command{}
		o.register(cmd)
		require.NoError(t, cmd.ParseFlags(tt.args))
		c, err := o.config("kmm-system")
		if tt.says != "" {
			assert.ErrorContains(t, err, tt.says)
			assert.Equal(t, int(exit.Usage), exitCode(err), tt.says)
			continue
		}
		require.NoError(t, err, tt.args)
		assert.Equal(t, c.OurImage == "", c.AgentDaemonSet == "kmm-system/kmmd")
	}
}
