// SPDX-License-Identifier: Apache-2.0

package images

import (
	"archive/tar"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/images/imagestest"
)

// unpacked is an image as somebody would unpack it who knows of no symlinks:
// content by path, directories with a slash at their end, "device" for what is
// neither.
type unpacked map[string]string

const device = "\x00device"

// unpackLayer puts one layer over the ones below. ok is false for what is no
// proper layer.
func (u unpacked) unpackLayer(entries layer) (ok bool) {
	for _, e := range entries { // about the layers below, wherever it stands
		dir, base := path.Split(path.Clean("/" + e.Name))
		if gone, is := strings.CutPrefix(base, ".wh."); is && gone == ".wh..opq" {
			u.remove(dir, false)
		} else if is {
			u.remove(dir+gone, true)
		}
	}
	var links layer
	for _, e := range entries {
		at := path.Clean("/" + e.Name)
		if strings.HasPrefix(path.Base(at), ".wh.") || at == "/" {
			continue
		}
		if !u.parents(at) {
			return false
		}
		switch e.Type {
		case tar.TypeDir:
			if _, is := u[at+"/"]; !is {
				u.remove(at, true)
				u[at+"/"] = ""
			}
		case tar.TypeLink:
			links = append(links, e)
		case tar.TypeChar:
			u.remove(at, true)
			u[at] = device
		default:
			u.remove(at, true)
			u[at] = e.Body
		}
	}
	return len(links) == 0
}

// remove takes away a path and what is below it; all is false for only the
// latter.
func (u unpacked) remove(at string, all bool) {
	at = strings.TrimSuffix(at, "/")
	for name := range u {
		if strings.HasPrefix(name, at+"/") && (all || name != at+"/") || all && name == at {
			delete(u, name)
		}
	}
}

// parents makes the directories above a path.
func (u unpacked) parents(at string) bool {
	for dir := path.Dir(at); dir != "/"; dir = path.Dir(dir) {
		if _, file := u[dir]; file {
			return false
		}
		u[dir+"/"] = ""
	}
	return true
}

// below are the plain files of a directory.
func (u unpacked) below(dir string) map[string]string {
	out := map[string]string{}
	for name, content := range u {
		if rest, ok := strings.CutPrefix(name, dir+"/"); ok && !strings.HasSuffix(name, "/") && content != device {
			out[rest] = content
		}
	}
	return out
}

// plainLayers runs a program without links.
func (p *program) plainLayers() []layer {
	out := []layer{nil}
	places := slices.DeleteFunc(places(), func(s string) bool { return strings.Contains(s, "..") })
	pick := func() string { return places[p.next()%len(places)] }
	for n := 0; len(p.code) > 0 && n < 40; n++ {
		var e imagestest.Entry
		switch p.next() % 6 {
		case 0, 1:
			e = imagestest.File(pick(), string(rune('0'+n)))
		case 2:
			e = imagestest.Directory(pick())
		case 3:
			e = imagestest.Whiteout(pick())
		case 4:
			e = imagestest.Opaque(pick())
		case 5:
			if p.next()%2 == 0 && len(out) < 4 {
				out = append(out, nil)
				continue
			}
			e = imagestest.Entry{Name: pick(), Type: tar.TypeChar}
		}
		out[len(out)-1] = append(out[len(out)-1], e)
	}
	return out
}

// FuzzUnpack pulls from an image without links and compares with what unpacking
// one layer after the other gives.
func FuzzUnpack(f *testing.F) {
	f.Add([]byte{0, 0, 0, 1, 3, 0, 5, 0, 0, 6, 2, 7, 4, 7, 0, 2, 0, 18})
	f.Add([]byte{0, 0, 0, 2, 5, 0, 4, 6, 0, 1, 0, 18, 0, 20, 5, 0, 3, 20})
	f.Add([]byte{0, 0, 5, 0, 2, 0, 0, 0, 5, 0, 0, 0})
	f.Fuzz(func(t *testing.T, code []byte) {
		layers := (&program{code}).plainLayers()
		want := unpacked{}
		var blobs []*imagestest.Blob
		for _, l := range layers {
			// A layer that nobody could unpack is seen when it is read, so only the ones above it may have decided all.
			if !want.unpackLayer(l) {
				want = unpacked{}
			}
			blobs = append(blobs, imagestest.Entries(t, l...))
		}
		src, r := sourceOf(t, blobs...)
		s, err := Open(filepath.Join(t.TempDir(), "store"), Options{})
		require.NoError(t, err)
		q, err := parseRequest(Request{Ref: "reg.example/kmod:v1", Releases: []string{testRelease}, FirmwarePath: "/firmware"})
		require.NoError(t, err)
		tree, err := s.fetch(t.Context(), src, q, r, func(Progress) {})
		if err != nil {
			require.True(t, isOurs(err), "%v", err)
			return
		}
		require.Equal(t, want.below("/opt/lib/modules/"+testRelease), contents(t, tree.ModulesDir))
		require.Equal(t, want.below("/firmware"), contents(t, tree.FirmwareDir))
	})
}
