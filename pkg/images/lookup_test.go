// SPDX-License-Identifier: Apache-2.0

package images

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/images/imagestest"
)

func TestLookup(t *testing.T) {
	reg := imagestest.NewRegistry(t)
	want := imagestest.Push(t, reg.Host+"/kmod:v1", imagestest.Layer(t, testModules()))
	ask := func(ref string) (string, error) {
		return Lookup(t.Context(), Request{Ref: ref, Insecure: true})
	}
	got, err := ask(reg.Host + "/kmod:v1")
	require.NoError(t, err)
	assert.Equal(t, want, got)

	_, err = ask(reg.Host + "/kmod:v2")
	assert.ErrorIs(t, err, ErrNotFound)
	_, err = ask(reg.Host + "/kmod")
	assert.ErrorIs(t, err, ErrInvalidRef)
	_, err = ask("oci:/images/kmod")
	assert.ErrorIs(t, err, ErrInvalidRef)
	_, err = Lookup(t.Context(), Request{Ref: reg.Host + "/kmod:v1"})
	assert.ErrorIs(t, err, ErrUnreachable, "plain http that nobody allowed")
	reg.Close()
	_, err = ask(reg.Host + "/kmod:v1")
	assert.ErrorIs(t, err, ErrUnreachable)
}
