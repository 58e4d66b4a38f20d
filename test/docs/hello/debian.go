// SPDX-License-Identifier: Apache-2.0

package hello

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/kmm-node/kmmd/test/cluster/toolchain"
)

// aptGet stands for apt-get in the image: what it would install is there.
const aptGet = "#!/bin/sh\necho \"apt-get $*: it is there\"\n"

// newHub is a registry that has debian:12: this machine's compiler, the headers of
// the lab's kernel, and no network to get others by.
func newHub(dir, release string) (*httptest.Server, error) {
	image, err := toolchain.Image(dir, release)
	if err != nil {
		return nil, err
	}
	layer, err := differences(release)
	if err == nil {
		image, err = mutate.Append(image, mutate.Addendum{Layer: static.NewLayer(layer, types.OCIUncompressedLayer)})
	}
	if err != nil {
		return nil, fmt.Errorf("make debian:12: %w", err)
	}
	hub := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	if err := push(hub.Listener.Addr().String()+"/library/debian:12", image); err != nil {
		hub.Close()
		return nil, fmt.Errorf("push debian:12: %w", err)
	}
	return hub, nil
}

// differences are a layer. It has apt-get, and takes away what 6.12's headers have of
// the kernel: with it kbuild wants pahole, which is installed with them elsewhere.
func differences(release string) ([]byte, error) {
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	for _, file := range []struct{ name, content string }{
		{"usr/bin/apt-get", aptGet}, {"usr/src/linux-headers-" + release + "/.wh.vmlinux", ""},
	} {
		if err := w.WriteHeader(&tar.Header{Name: file.name, Mode: 0o755, Size: int64(len(file.content))}); err != nil {
			return nil, err
		}
		if _, err := io.WriteString(w, file.content); err != nil {
			return nil, err
		}
	}
	return layer.Bytes(), w.Close()
}

func push(reference string, image v1.Image) error {
	tag, err := name.NewTag(reference, name.Insecure)
	if err != nil {
		return err
	}
	return remote.Write(tag, image)
}

// environment has tools of containers use the hub for Docker's, and keep what they
// unpack in a directory, and uname name the release.
func environment(dir, release, hub string) ([]string, error) {
	files := map[string]string{
		"registries.conf": fmt.Sprintf("unqualified-search-registries = [\"docker.io\"]\n[[registry]]\nprefix = \"docker.io\"\nlocation = %q\ninsecure = true\n", hub),
		"storage.conf":    fmt.Sprintf("[storage]\ndriver = \"vfs\"\ngraphroot = \"%[1]s/storage\"\nrunroot = \"%[1]s/run\"\n", dir),
		"bin/uname":       fmt.Sprintf("#!/bin/sh\n[ \"$*\" = -r ] && echo %s\n", release),
	}
	if err := os.Mkdir(filepath.Join(dir, "bin"), 0o755); err != nil {
		return nil, err
	}
	for path, content := range files {
		if err := os.WriteFile(filepath.Join(dir, path), []byte(content), 0o755); err != nil {
			return nil, err
		}
	}
	return []string{
		"PATH=" + dir + "/bin:" + os.Getenv("PATH"), "BUILDAH_ISOLATION=chroot",
		"CONTAINERS_REGISTRIES_CONF=" + dir + "/registries.conf", "CONTAINERS_STORAGE_CONF=" + dir + "/storage.conf",
	}, nil
}
