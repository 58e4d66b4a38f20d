// SPDX-License-Identifier: Apache-2.0

package image

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/images"
	"github.com/kmm-node/kmmd/pkg/images/credentials"
	"github.com/kmm-node/kmmd/pkg/images/imagestest"
	"github.com/kmm-node/kmmd/pkg/sign"
	"github.com/kmm-node/kmmd/test/debian"
)

// labRegistry starts Debian's docker-registry, which takes the user "joe" with the
// password "right" as htpasswd -B writes it, and returns its address.
func labRegistry(t *testing.T, storage, auth string) string {
	t.Helper()
	htpasswd := filepath.Join(t.TempDir(), "htpasswd")
	require.NoError(t, os.WriteFile(htpasswd, []byte("joe:$2y$05$abcdefghijklmnopqrstuu8xaCxxL82bnl.UY74PMksDxIJShppPC\n"), 0o600))
	if auth != "" {
		auth = fmt.Sprintf("auth: {htpasswd: {realm: lab, path: %s}}\n", htpasswd)
	}
	return debian.Registry(t, storage, "http: {addr: \"127.0.0.1:0\"}\n"+auth)
}

// TestLabRegistry signs into a registry that asks for a password, in both formats and
// as an index.
func TestLabRegistry(t *testing.T) {
	storage := t.TempDir()
	plain := labRegistry(t, storage, "")
	host := labRegistry(t, storage, "htpasswd")
	base := imagestest.Layer(t, map[string]string{"etc/base": strings.Repeat("x", 1<<20)})
	modules := imagestest.Layer(t, map[string]string{mods + "a.ko": module("a")})
	imagestest.Push(t, plain+"/team/oci:v1", base, modules)
	require.NoError(t, remote.WriteIndex(mustRef(t, plain+"/team/index:v1"), twoPlatforms(t)))
	imagestest.PushImage(t, plain+"/team/docker:v1", docker(t, base, modules))

	joe, err := credentials.Parse("secret", []byte(`{"auths": {"`+host+`/team": {"username": "joe", "password": "right"}}}`))
	require.NoError(t, err)
	l := &lab{Registry: &imagestest.Registry{Host: host}, signer: newSigner(t)}
	for _, kind := range []string{"oci", "docker", "index"} {
		o := l.options("team/"+kind+":v1", "team/signed/"+kind+":v1")
		o.Keyring = joe
		r, err := Sign(t.Context(), o, l.signer, globs(t, allMods))
		require.NoError(t, err, kind)
		assert.Positive(t, r.Signed)
		digest, err := remote.Head(mustRef(t, plain+"/team/signed/"+kind+":v1"))
		require.NoError(t, err)
		assert.Equal(t, digest.Digest.String(), r.Digest)
		for at, b := range l.pull(t, plain+"/team/signed/"+kind+":v1") {
			assert.NoError(t, sign.Verify(b, l.signer.Certificate()), at)
		}
		again, err := Sign(t.Context(), o, l.signer, globs(t, allMods))
		require.NoError(t, err, kind)
		assert.Equal(t, r, again)
	}
	o := l.options("team/oci:v1", "team/out:v2")
	_, err = Sign(t.Context(), o, l.signer, globs(t, allMods))
	require.ErrorIs(t, err, images.ErrUnauthorized)
}

// TestLabBuildah has another tool make the layout, and unpack what comes out.
func TestLabBuildah(t *testing.T) {
	debian.Dir(t)
	if os.Geteuid() != 0 {
		t.Skip("buildah is run as root only")
	}
	_, err := exec.LookPath("buildah")
	require.NoError(t, err)
	dir, err := os.MkdirTemp("", "kmmd-lab") // buildah takes no path with upper-case letters, which t.TempDir has
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, os.RemoveAll(dir)) })
	buildah := func(args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "buildah", append([]string{"--root", dir + "/root", "--runroot", dir + "/run", "--storage-driver", "vfs"}, args...)...)
		cmd.WaitDelay = time.Minute
		out, err := cmd.Output()
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			require.NoError(t, err, string(exit.Stderr))
		}
		require.NoError(t, err)
		return strings.TrimSpace(string(out))
	}
	file := filepath.Join(dir, "a.ko")
	require.NoError(t, os.WriteFile(file, []byte(module("a")), 0o640))
	container := buildah("from", "scratch")
	buildah("add", "--chown", "12:34", container, file, "/"+mods)
	buildah("commit", "--rm", container, "built")
	buildah("push", "built", "oci:"+dir+"/layout")

	signer := newSigner(t)
	o := Options{From: Place{Ref: "oci:" + dir + "/layout"}, To: Place{Ref: "oci:" + dir + "/signed"}}
	_, err = Sign(t.Context(), o, signer, globs(t, allMods))
	require.NoError(t, err)
	container = buildah("from", "oci:"+dir+"/signed")
	at := filepath.Join(buildah("mount", container), mods, "a.ko")
	b, err := os.ReadFile(at)
	require.NoError(t, err)
	assert.NoError(t, sign.Verify(b, signer.Certificate()))
	st, err := os.Stat(at)
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o640), st.Mode())
	buildah("rm", container)
}
