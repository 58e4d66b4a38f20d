// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// build builds a program that does nothing, at a commit of its own that is the same
// everywhere, for each architecture; the result is what -programs takes.
func build(t *testing.T, name string) string {
	t.Helper()
	dir, out := t.TempDir(), t.TempDir()
	for file, content := range map[string]string{"go.mod": "module example/" + name + "\n\ngo 1.26\n", "main.go": "package main\n\nfunc main() {}\n"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, file), []byte(content), 0o644))
	}
	run := func(env []string, words ...string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), words[0], words[1:]...)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
		b, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s: %s", words, b)
	}
	when := []string{"GIT_AUTHOR_DATE=2026-01-02T03:04:05Z", "GIT_COMMITTER_DATE=2026-01-02T03:04:05Z"}
	run(nil, "git", "init", "-q")
	run(nil, "git", "add", ".")
	run(when, "git", "-c", "user.name=a", "-c", "user.email=a@example.com", "commit", "-qm", "a")
	for _, arch := range []string{"amd64", "arm64"} {
		run([]string{"GOOS=linux", "GOARCH=" + arch, "CGO_ENABLED=0"}, "go", "build", "-trimpath", "-buildvcs=true", "-o", filepath.Join(out, arch, name), ".")
	}
	return out
}

func (i image) of(t *testing.T, programs string) *index {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(programs, "*", i.name))
	require.NoError(t, err)
	return must[*index](t)(i.make(files))
}

// must is for calls that give a value and an error.
func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		require.NoError(t, err)
		return v
	}
}

func TestSameCommitSameDigest(t *testing.T) {
	for _, i := range images {
		first, second := i.of(t, build(t, i.name)), i.of(t, build(t, i.name))
		digest := must[v1.Hash](t)
		assert.Equal(t, digest(first.index.Digest()), digest(second.index.Digest()), i.name)
		for n := range first.platforms {
			assert.Equal(t, string(first.platforms[n].sbom), string(second.platforms[n].sbom), i.name)
		}
	}
}

func TestImage(t *testing.T) {
	for _, i := range images {
		x := i.of(t, build(t, i.name))
		revision := must[*v1.IndexManifest](t)(x.index.IndexManifest()).Annotations["org.opencontainers.image.revision"]
		assert.Equal(t, "v0.0.0-20260102030405-"+revision[:12], x.tag)
		for _, p := range x.platforms {
			c := must[*v1.ConfigFile](t)(p.image.ConfigFile())
			assert.Equal(t, "linux/"+p.arch, c.OS+"/"+c.Architecture)
			assert.Equal(t, i.user, c.Config.User)
			assert.Equal(t, []string{"/usr/bin/" + i.name}, c.Config.Entrypoint)
			assert.Equal(t, "2026-01-02T03:04:05Z", c.Config.Labels["org.opencontainers.image.created"])
			files := content(t, p.image)
			assert.Contains(t, files, "usr/bin/"+i.name)
			assert.Len(t, files, 2)
			// Both programs ask registries, by HTTPS.
			assert.True(t, x509.NewCertPool().AppendCertsFromPEM(files[rootsFile]))
			assert.Greater(t, strings.Count(string(files[rootsFile]), "BEGIN CERTIFICATE"), 100)
		}
	}
}

// content are the files of an image, as a runtime unpacks them.
func content(t *testing.T, img v1.Image) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	r := mutate.Extract(img)
	defer r.Close()
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		require.NoError(t, err)
		if h.Typeflag == tar.TypeReg {
			files[h.Name] = must[[]byte](t)(io.ReadAll(tr))
		}
		assert.Zero(t, h.Uid+h.Gid, "owner of %s", h.Name)
	}
}

func TestLayout(t *testing.T) {
	i, dir := images[0], t.TempDir()
	programs := build(t, i.name)
	x := i.of(t, programs)
	for range 2 { // the second replaces the first
		require.NoError(t, x.write(dir))
	}
	all := must[v1.ImageIndex](t)(layout.ImageIndexFromPath(filepath.Join(dir, i.name)))
	m := must[*v1.IndexManifest](t)(all.IndexManifest())
	require.Len(t, m.Manifests, 1)
	assert.Equal(t, types.OCIImageIndex, m.Manifests[0].MediaType)
	assert.Equal(t, x.tag, m.Manifests[0].Annotations["org.opencontainers.image.ref.name"])
	for _, arch := range []string{"amd64", "arm64"} {
		var d document
		require.NoError(t, json.Unmarshal(must[[]byte](t)(os.ReadFile(filepath.Join(dir, i.name+".linux-"+arch+".spdx.json"))), &d))
		assert.Equal(t, "SPDX-2.3", d.Version)
		assert.Len(t, d.Packages, 5, "image, program, module, standard library, certificates")
	}
	require.NoError(t, os.Remove(filepath.Join(dir, i.name, "oci-layout")))
	assert.ErrorContains(t, x.write(dir), "is there and is none", "a directory that is no layout stays")
}

func TestPush(t *testing.T) {
	for _, referrers := range []bool{true, false} {
		server := httptest.NewServer(registry.New(registry.WithReferrersSupport(referrers), registry.Logger(log.New(io.Discard, "", 0))))
		defer server.Close()
		i := images[1]
		x := i.of(t, build(t, i.name))
		ref, err := x.push(strings.TrimPrefix(server.URL, "http://")+"/kmm", true, authn.NewMultiKeychain())
		require.NoError(t, err)
		pushed := must[name.Digest](t)(name.NewDigest(ref, name.Insecure))
		got := must[v1.ImageIndex](t)(remote.Index(pushed))
		assert.Equal(t, must[v1.Hash](t)(x.index.Digest()), must[v1.Hash](t)(got.Digest()))
		for _, p := range x.platforms {
			of := pushed.Context().Digest(must[v1.Hash](t)(p.image.Digest()).String())
			list := must[*v1.IndexManifest](t)(must[v1.ImageIndex](t)(remote.Referrers(of)).IndexManifest())
			require.Len(t, list.Manifests, 1, "the registry has referrers: %t", referrers)
			assert.Equal(t, spdxType, list.Manifests[0].ArtifactType)
			bill := must[v1.Image](t)(remote.Image(pushed.Context().Digest(list.Manifests[0].Digest.String())))
			layers := must[[]v1.Layer](t)(bill.Layers())
			r := must[io.ReadCloser](t)(layers[0].Compressed())
			assert.Equal(t, string(p.sbom), string(must[[]byte](t)(io.ReadAll(r))))
		}
	}
}

func TestRefused(t *testing.T) {
	i := images[1]
	programs := build(t, i.name)
	amd64, arm64 := filepath.Join(programs, "amd64", i.name), filepath.Join(programs, "arm64", i.name)
	swapped := t.TempDir()
	for arch, from := range map[string]string{"amd64": arm64, "arm64": amd64} {
		to := filepath.Join(swapped, arch, i.name)
		require.NoError(t, os.MkdirAll(filepath.Dir(to), 0o755))
		require.NoError(t, os.WriteFile(to, must[[]byte](t)(os.ReadFile(from)), 0o755))
	}
	_, err := i.make([]string{filepath.Join(swapped, "amd64", i.name)})
	assert.ErrorContains(t, err, "is for linux/arm64")
	_, err = i.make([]string{os.Args[0]})
	assert.ErrorContains(t, err, "does not say which commit it is")
}
