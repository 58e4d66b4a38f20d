// SPDX-License-Identifier: Apache-2.0

package images

import (
	"archive/tar"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/images/imagestest"
	"github.com/kmm-node/kmmd/pkg/kmod"
)

// program makes layers out of bytes. A tar of random bytes never gets past its
// checksums; so each byte or two stand for an entry with a name that matters.
type program struct{ code []byte }

func (p *program) next() int {
	if len(p.code) == 0 {
		return 0
	}
	b := p.code[0]
	p.code = p.code[1:]
	return int(b)
}

// places are names of entries, and targets of links.
func places() []string {
	const r = "opt/lib/modules/" + testRelease
	return []string{
		r + "/a.ko", r + "/b.ko", r + "/d/c.ko", r + "/modules.dep", r + "/modules.softdep", r + "/modules.alias",
		r, r + "/d", r + "/host", r + "/z", "opt/lib/modules", "opt/lib", "opt",
		"usr", "usr/lib", "usr/lib/modules/" + testRelease + "/a.ko", "usr/lib/modules/" + testRelease + "/e.ko",
		"srv/x", "srv", "firmware", "firmware/x", "firmware/d", "firmware/d/y", "opt/lib/modules/other/a.ko",
		"./" + r + "//a.ko", "/" + r + "/b.ko", "opt/firmware/x", "lib", "objects/1",
		r + "/../evil", "../evil", ".", "",
	}
}

func targets() []string {
	return append(places(), "a.ko", "b.ko", "d", "..", "../..", "/", "/usr/lib", "../usr/lib", "/firmware", "/etc/passwd",
		"../../../../../../../../etc/passwd", "/lib/modules/"+testRelease, "z", "/srv/x")
}

// The operations of a program; the first byte of each is one of these.
const (
	opFile = iota
	opDirectory
	opSymlink
	opHardlink
	opWhiteout
	opOpaque
	opLayer // what follows is the next layer
	opDevice
	opComplete // all that stops a pull early
	operations
)

// layers runs the program. There are at most four layers and forty entries.
func (p *program) layers(t *testing.T) []*imagestest.Blob {
	var out []*imagestest.Blob
	var entries layer
	pick := func(of []string) string { return of[p.next()%len(of)] }
	indexes := []string{"a.ko:\nb.ko:\n", "a.ko: b.ko\nb.ko:\n", "a.ko: d/c.ko\nd/c.ko:\n", "a.ko: ../evil\n", "z/a.ko:\n", "junk"}
	for n := 0; len(p.code) > 0 && n < 40 && len(out) < 4; n++ {
		switch p.next() % operations {
		case opFile:
			e := imagestest.File(pick(places()), string(rune('0'+n)))
			if base := filepath.Base(e.Name); base == "modules.dep" || base == "modules.softdep" {
				e.Body = pick(indexes)
			}
			entries = append(entries, e)
		case opDirectory:
			entries = append(entries, imagestest.Directory(pick(places())))
		case opSymlink:
			entries = append(entries, imagestest.Symlink(pick(places()), pick(targets())))
		case opHardlink:
			entries = append(entries, imagestest.Hardlink(pick(places()), pick(targets())))
		case opWhiteout:
			entries = append(entries, imagestest.Whiteout(pick(places())))
		case opOpaque:
			entries = append(entries, imagestest.Opaque(pick(places())))
		case opLayer:
			out, entries = append(out, imagestest.Entries(t, entries...)), nil
		case opDevice:
			entries = append(entries, imagestest.Entry{Name: pick(places()), Type: tar.TypeChar})
		case opComplete:
			entries = append(entries, imagestest.Files(map[string]string{
				mods + "a.ko": string(rune('0' + n)), mods + "modules.dep": pick(indexes),
				mods + "modules.softdep": "", mods + "modules.alias": "",
			})...)
		}
	}
	return append(out, imagestest.Entries(t, entries...))
}

// FuzzPull makes an image and pulls from it: with layers left out as soon as that
// is proven to change nothing, and with none left out. If the latter succeeds,
// so does the former, with the same files; also when a listing stands for a
// layer. Whatever happens, the stores hold plain files only and nothing half
// done.
func FuzzPull(f *testing.F) {
	f.Fuzz(func(t *testing.T, code []byte) {
		blobs := (&program{code}).layers(t)
		src, r := sourceOf(t, blobs...)
		dir := t.TempDir()
		pull := func(name string, request Request) (map[string]string, error) {
			s, err := Open(filepath.Join(dir, name), Options{})
			require.NoError(t, err)
			s.l.entries, s.l.files = 1000, 100
			request.Ref, request.Releases = "reg.example/kmod:v1", []string{testRelease}
			q, err := parseRequest(request)
			require.NoError(t, err)
			tree, err := s.fetch(t.Context(), src, q, r, func(Progress) {})
			onlyPlainFiles(t, s.dir)
			assert.Empty(t, names(t, s.path("tmp")))
			if err != nil {
				assert.True(t, isOurs(err), "%v", err)
				return nil, err
			}
			require.NoError(t, tree.Verify())
			files := contents(t, tree.ModulesDir)
			if tree.FirmwareDir != "" {
				for name, body := range contents(t, tree.FirmwareDir) {
					files["firmware/"+name] = body
				}
			}
			return files, nil
		}
		unproven := func(dir string, modules []string) ([]string, bool, error) {
			files, _, err := kmod.Closure(dir, modules)
			return files, false, err
		}
		for _, firmware := range []string{"", "/firmware"} {
			for _, modules := range [][]string{{"a"}, nil} {
				name := "proven" + firmware
				all, allErr := pull("all"+firmware+string(rune('0'+len(modules))),
					Request{Modules: modules, FirmwarePath: firmware, Closure: unproven})
				early, err := pull(name, Request{Modules: modules, FirmwarePath: firmware, Closure: kmod.Closure})
				if allErr == nil {
					require.NoError(t, err, "all layers give %v", all)
					require.Equal(t, all, early)
				}
			}
		}
	})
}
