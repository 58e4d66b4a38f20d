// SPDX-License-Identifier: Apache-2.0

package images

import (
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/images/imagestest"
)

const elf = "\x7fELF module"

func artifact(t *testing.T, parts ...imagestest.Part) v1.Image {
	return imagestest.Artifact(t, imagestest.Manifest{ArtifactType: "application/vnd.example.module"}, parts...)
}

func TestBareModule(t *testing.T) {
	tests := []struct {
		name, title, file, data string
		mediaType               types.MediaType
	}{
		{"plain", "nic.ko", "nic.ko", elf, "application/octet-stream"},
		{"gzip", "nic.ko.gz", "nic.ko.gz", "\x1f\x8b module", "application/gzip"},
		{"xz", "nic.ko.xz", "nic.ko.xz", "\xfd7zXZ\x00 module", "application/vnd.example.module"},
		{"zstd", "nic-drv_2.ko.zst", "nic-drv_2.ko.zst", "\x28\xb5\x2f\xfd module", "application/zstd"},
		{"as oras has it", "nic.ko", "nic.ko", elf, types.OCIUncompressedLayer},
		{"path", "build/6.1/nic.ko", "nic.ko", elf, "application/octet-stream"},
		{"path upwards", "../../../../etc/nic.ko", "nic.ko", elf, "application/octet-stream"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			reg, s, dir := imagestest.NewRegistry(t), openStore(t), filepath.Join(t.TempDir(), "layout")
			img := artifact(t, imagestest.Titled(tt.title, tt.data, tt.mediaType))
			r := localRequest(reg.Host + "/nic:v1")
			r.Insecure = true
			digest := imagestest.PushImage(t, r.Ref, img)
			tree, err := s.Ensure(t.Context(), r)
			require.NoError(t, err)
			assert.Equal(t, digest, tree.Digest)
			assert.Equal(t, testRelease, tree.Release)
			assert.Equal(t, map[string]string{"extra/" + tt.file: tt.data}, contents(t, tree.ModulesDir))
			require.NoError(t, tree.Verify())

			s = openStore(t)
			imagestest.AddToLayout(t, dir, img, imagestest.Tagged("v1"))
			tree, err = s.Ensure(t.Context(), localRequest("oci:"+dir+":v1"))
			require.NoError(t, err)
			assert.Equal(t, map[string]string{"extra/" + tt.file: tt.data}, contents(t, tree.ModulesDir))
		})
	}
}

// TestBareModuleOfTwoReleases: where the file is depends on who asks.
func TestBareModuleOfTwoReleases(t *testing.T) {
	reg, s := imagestest.NewRegistry(t), openStore(t)
	r := localRequest(reg.Host + "/nic:v1")
	r.Insecure = true
	imagestest.PushImage(t, r.Ref, artifact(t, imagestest.Titled("nic.ko", elf, "application/octet-stream")))
	for _, releases := range [][]string{{"6.1.0+", "6.1.0"}, {"6.12.0", "6.1.0"}} {
		for _, dirName := range []string{"", "/usr"} {
			r.Releases, r.DirName = releases, dirName
			tree, err := s.Ensure(t.Context(), r)
			require.NoError(t, err)
			assert.Equal(t, releases[0], tree.Release)
			assert.Equal(t, map[string]string{"extra/nic.ko": elf}, contents(t, tree.ModulesDir))
		}
	}
	r.FirmwarePath = "/firmware"
	_, err := s.Ensure(t.Context(), r)
	assert.ErrorIs(t, err, ErrNoFirmware)
}

func TestTarArtifact(t *testing.T) {
	for compression, mediaTypes := range map[string][]types.MediaType{
		imagestest.None: {"application/vnd.example.modules.tar", "application/x-tar", "application/tar"},
		imagestest.Gzip: {"application/vnd.example.modules.tar+gzip", "application/vnd.example.tar.gzip", "application/x-tar+gz"},
		imagestest.Zstd: {"application/vnd.example.modules.tar+zstd"},
	} {
		blob := imagestest.Compress(t, imagestest.Tar(t, imagestest.Files(testModules())...), compression)
		for _, mediaType := range mediaTypes {
			reg, s := imagestest.NewRegistry(t), openStore(t)
			r := request(reg.Host + "/nic:v1")
			imagestest.PushImage(t, r.Ref, artifact(t, imagestest.Titled("modules.tar", string(blob.Data), mediaType)))
			tree, err := s.Ensure(t.Context(), r)
			require.NoError(t, err, mediaType)
			assert.Contains(t, contents(t, tree.ModulesDir), "extra/b.ko")
			assert.NotEmpty(t, tree.FirmwareDir)
		}
	}
}

func TestArtifactIsRefused(t *testing.T) {
	const octets = "application/octet-stream"
	module := imagestest.Titled("nic.ko", elf, octets)
	blob := imagestest.Layer(t, testModules())
	tests := []struct {
		name  string
		parts []imagestest.Part
		words string
	}{
		{"two modules", []imagestest.Part{module, imagestest.Titled("b.ko", elf, octets)}, "one layer"},
		{"a module and an image's layer", []imagestest.Part{module, {Data: blob.Data, Type: blob.Type}}, "one layer"},
		{"two tars of their own type", []imagestest.Part{{Data: blob.Data, Type: "application/x-tar"}, {Data: blob.Data, Type: "application/x-tar"}}, "one layer"},
		{"no title", []imagestest.Part{{Data: []byte(elf), Type: octets}}, "titled NAME.ko"},
		{"no module", []imagestest.Part{imagestest.Titled("nic.txt", elf, octets)}, "titled NAME.ko"},
		{"hidden", []imagestest.Part{imagestest.Titled(".ko", elf, octets)}, "titled NAME.ko"},
		{"directory", []imagestest.Part{imagestest.Titled("nic.ko/..", elf, octets)}, "titled NAME.ko"},
		{"control characters", []imagestest.Part{imagestest.Titled("nic\n.ko", elf, octets)}, "titled NAME.ko"},
		{"long", []imagestest.Part{imagestest.Titled(strings.Repeat("x", 300)+".ko", elf, octets)}, "titled NAME.ko"},
		{"a whiteout", []imagestest.Part{imagestest.Titled(".wh.nic.ko", elf, octets)}, "titled NAME.ko"},
		{"not what it says", []imagestest.Part{imagestest.Titled("nic.ko", "\x1f\x8b", octets)}, "titled nic.ko, and is no such file"},
		{"compressed twice", []imagestest.Part{imagestest.Titled("nic.ko.xz", elf, octets)}, "titled nic.ko.xz, and is no such file"},
		{"shorter than any", []imagestest.Part{imagestest.Titled("nic.ko", "\x7f", octets)}, "no such file"},
		{"type that only says it", []imagestest.Part{{Data: []byte(elf), Type: bareModule}}, "titled NAME.ko"},
		{"nearly a tar", []imagestest.Part{{Data: blob.Data, Type: "application/vnd.guitar"}}, "titled NAME.ko"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			reg, s := imagestest.NewRegistry(t), openStore(t)
			r := localRequest(reg.Host + "/nic:v1")
			r.Insecure = true
			imagestest.PushImage(t, r.Ref, artifact(t, tt.parts...))
			_, err := s.Ensure(t.Context(), r)
			require.ErrorIs(t, err, ErrUnsafe)
			assert.ErrorContains(t, err, tt.words)
			assert.Empty(t, names(t, s.path("trees")))
			assert.Empty(t, names(t, s.path("tmp")))
		})
	}
}

func TestBareModuleIsVerified(t *testing.T) {
	reg, s := imagestest.NewRegistry(t), openStore(t)
	r := localRequest(reg.Host + "/nic:v1")
	r.Insecure = true
	imagestest.PushImage(t, r.Ref, artifact(t, imagestest.Titled("nic.ko", elf, "application/octet-stream")))
	for _, body := range []string{"\x7fELF modulE", "no such fil"} {
		reg.Handle(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
			if strings.Contains(req.URL.Path, "/blobs/") {
				_, _ = w.Write([]byte(body))
				return
			}
			next.ServeHTTP(w, req)
		})
		_, err := s.Ensure(t.Context(), r)
		require.ErrorIs(t, err, ErrDigest)
		assert.NotErrorIs(t, err, ErrUnsafe)
	}
	reg.Handle(nil)
	s.l.fileSize = int64(len(elf)) - 1
	_, err := s.Ensure(t.Context(), r)
	assert.ErrorIs(t, err, ErrLimit)
}

// TestBareModuleThatIsALayerToo: one blob, a layer to one manifest and a module
// file to another, is to each what it says, in any order.
func TestBareModuleThatIsALayerToo(t *testing.T) {
	blob := imagestest.Layer(t, map[string]string{mods + "a.ko": "in the layer"})
	for _, order := range [][]string{{"layer", "module", "layer"}, {"module", "layer", "module"}} {
		reg, s := imagestest.NewRegistry(t), openStore(t)
		imagestest.Push(t, reg.Host+"/kmod:layer", blob)
		imagestest.PushImage(t, reg.Host+"/kmod:module", artifact(t, imagestest.Titled("nic.ko.gz", string(blob.Data), "application/gzip")))
		want := map[string]map[string]string{
			"layer": {"a.ko": "in the layer"}, "module": {"extra/nic.ko.gz": string(blob.Data)},
		}
		for i, tag := range order {
			r := localRequest(reg.Host + "/kmod:" + tag)
			r.Insecure = true
			r.Releases = append(r.Releases, strings.Repeat("x", i)+"no such release") // a tree of its own
			tree, err := s.Ensure(t.Context(), r)
			require.NoError(t, err)
			assert.Equal(t, want[tag], contents(t, tree.ModulesDir), order)
		}
	}
}
