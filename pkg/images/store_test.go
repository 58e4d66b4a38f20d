// SPDX-License-Identifier: Apache-2.0

package images

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/kmm-node/kmmd/pkg/images/imagestest"
)

const testRelease = "6.1.0-1-amd64"

// testModules is below the modules directory of testRelease.
func testModules() map[string]string {
	return map[string]string{
		"opt/lib/modules/" + testRelease + "/a.ko":        "module a",
		"opt/lib/modules/" + testRelease + "/extra/b.ko":  "module b",
		"opt/lib/modules/" + testRelease + "/modules.dep": "a.ko: extra/b.ko\n",
		"opt/lib/modules/other/a.ko":                      "of another kernel",
		"etc/passwd":                                      "root:x:0:0",
		"firmware/sub/a.bin":                              "firmware a",
		"firmware/b.bin":                                  "firmware b",
	}
}

func openStore(t testing.TB) *Store {
	t.Helper()
	s, err := Open(filepath.Join(memory(t), "images"), Options{})
	require.NoError(t, err)
	s.l.retryDelay = time.Millisecond
	t.Cleanup(func() { assert.NoError(t, s.Close()) })
	return s
}

func request(ref string) Request {
	return Request{Ref: ref, Releases: []string{testRelease}, FirmwarePath: "/firmware", Insecure: true}
}

// contents reads all regular files below dir; anything else fails the test.
func contents(t testing.TB, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	require.NoError(t, filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		require.NoError(t, err)
		info, err := d.Info()
		require.NoError(t, err)
		if d.IsDir() {
			assert.Equal(t, os.FileMode(storedDir), info.Mode().Perm(), p)
			return nil
		}
		assert.Equal(t, os.FileMode(storedMode), info.Mode(), p)
		b, err := os.ReadFile(p)
		require.NoError(t, err)
		rel, err := filepath.Rel(dir, p)
		require.NoError(t, err)
		out[rel] = string(b)
		return nil
	}))
	return out
}

func TestEnsureTakesOnlyWhatIsAskedFor(t *testing.T) {
	unixMask := unix.Umask(0o077) // must not show in the result
	t.Cleanup(func() { unix.Umask(unixMask) })
	for _, compression := range []string{imagestest.None, imagestest.Gzip, imagestest.Zstd} {
		t.Run(compression, func(t *testing.T) {
			reg, s := imagestest.NewRegistry(t), openStore(t)
			ref := reg.Host + "/org/kmod:v1"
			digest := imagestest.Push(t, ref,
				imagestest.Compress(t, imagestest.Tar(t, imagestest.Files(testModules())...), compression))

			tree, err := s.Ensure(t.Context(), request(ref))
			require.NoError(t, err)
			assert.Equal(t, ref, tree.Ref)
			assert.Equal(t, digest, tree.Digest)
			assert.Equal(t, testRelease, tree.Release)
			assert.False(t, tree.Stale)
			assert.True(t, filepath.IsAbs(tree.ModulesDir))
			assert.True(t, strings.HasSuffix(tree.ModulesDir, "/lib/modules/"+testRelease))
			assert.Equal(t, map[string]string{
				"a.ko": "module a", "extra/b.ko": "module b", "modules.dep": "a.ko: extra/b.ko\n",
			}, contents(t, tree.ModulesDir))
			assert.Equal(t, map[string]string{"sub/a.bin": "firmware a", "b.bin": "firmware b"},
				contents(t, tree.FirmwareDir))
			assert.NoError(t, tree.Verify())
			assert.Empty(t, names(t, s.path("tmp")))
		})
	}
}

func names(t testing.TB, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func TestEnsureReleaseAndDirName(t *testing.T) {
	reg, s := imagestest.NewRegistry(t), openStore(t)
	ref := reg.Host + "/kmod:v1"
	imagestest.Push(t, ref, imagestest.Layer(t, map[string]string{
		"opt/lib/modules/6.1.0/a.ko":   "trimmed",
		"usr/lib/modules/6.1.0+/a.ko":  "raw",
		"opt/lib/modules/empty/x/y/.z": "",
	}), imagestest.Entries(t, imagestest.Whiteout("opt/lib/modules/empty/x/y/.z")))
	tests := []struct {
		name, dirName, firmware string
		releases                []string
		want                    string // content of a.ko
		err                     error
	}{
		{name: "second name", releases: []string{"6.1.0+", "6.1.0"}, want: "trimmed"},
		{name: "first name", dirName: "/usr", releases: []string{"6.1.0+", "6.1.0"}, want: "raw"},
		{name: "no slash", dirName: "usr/", releases: []string{"6.1.0+"}, want: "raw"},
		{name: "dots", dirName: "/usr/../opt/.", releases: []string{"6.1.0"}, want: "trimmed"},
		{name: "other kernel", releases: []string{"6.2.0"}, err: ErrNoModules},
		{name: "other dirName", dirName: "/srv", releases: []string{"6.1.0"}, err: ErrNoModules},
		{name: "no file", releases: []string{"empty"}, err: ErrNoModules},
		{name: "no firmware", releases: []string{"6.1.0"}, firmware: "/firmware", err: ErrNoFirmware},
		{name: "firmware is a file", releases: []string{"6.1.0"}, firmware: "/opt/lib/modules/6.1.0/a.ko", err: ErrNoFirmware},
		{name: "no release", err: ErrInvalidRef},
		{name: "release with a slash", releases: []string{"../x"}, err: ErrInvalidRef},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := Request{Ref: ref, DirName: tt.dirName, Releases: tt.releases, FirmwarePath: tt.firmware, Insecure: true}
			tree, err := s.Ensure(t.Context(), r)
			if tt.err != nil {
				require.ErrorIs(t, err, tt.err)
				assert.ErrorContains(t, err, ref)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, map[string]string{"a.ko": tt.want}, contents(t, tree.ModulesDir))
			assert.Empty(t, tree.FirmwareDir)
		})
	}
}

func TestNoModulesNamesWhatIsThere(t *testing.T) {
	reg, s := imagestest.NewRegistry(t), openStore(t)
	ref := reg.Host + "/kmod:v1"
	imagestest.Push(t, ref, imagestest.Layer(t, testModules()))
	r := request(ref)
	r.Releases = []string{"5.10.0"}
	_, err := s.Ensure(t.Context(), r)
	assert.ErrorContains(t, err, "/opt/lib/modules/5.10.0")
	assert.ErrorContains(t, err, `"`+testRelease+`" "other"`)
}

func TestInvalidReferences(t *testing.T) {
	s := openStore(t)
	for _, ref := range []string{
		"", "img", "localhost:5000/img", "reg.example/org/img", "https://reg.example/img:v1",
		"reg.example/Img:v1", "reg.example/img:", "reg.example/img@sha256:abc",
		"reg.example/img@sha512:" + strings.Repeat("0", 128), "reg.example/img:${KERNEL_VERSION}",
		"reg.example/team/../img:v1", "reg.example/./img:v1", "reg.example/team//img:v1",
	} {
		_, err := s.Ensure(t.Context(), request(ref))
		assert.ErrorIs(t, err, ErrInvalidRef, "%q", ref)
	}
	r := request("reg.example/img:v1")
	r.PullPolicy = "Sometimes"
	_, err := s.Ensure(t.Context(), r)
	assert.ErrorIs(t, err, ErrInvalidRef)
	assert.ErrorContains(t, err, "Sometimes")
}

func TestPolicies(t *testing.T) {
	// One image is pulled and then the tag moved to another; which one is seen
	// next, with the registry up and down?
	tests := []struct {
		name, tag, policy string
		up                string // digest seen while the registry is up: old or new
		requests          bool   // is the registry asked?
		down              string // what is seen once it is down: old, new, stale, or "" for an error
	}{
		{"version tag", ":v1", "", "old", false, "old"},
		{"latest", ":latest", "", "new", true, "stale"},
		{"latest IfNotPresent", ":latest", PullIfNotPresent, "old", false, "old"},
		{"version tag Always", ":v1", PullAlways, "new", true, "stale"},
		{"version tag Never", ":v1", PullNever, "old", false, "old"},
		{"digest", "@", "", "old", false, "old"},
		{"digest Always", "@", PullAlways, "old", false, "old"},
		{"tag and digest", ":latest@", PullAlways, "old", false, "old"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			reg, s := imagestest.NewRegistry(t), openStore(t)
			tag := reg.Host + "/kmod" + strings.TrimSuffix(tt.tag, "@")
			if tt.tag == "@" {
				tag += ":v1"
			}
			old := imagestest.Push(t, tag, imagestest.Layer(t, testModules()))
			ref := tag
			if strings.HasSuffix(tt.tag, "@") {
				ref = reg.Host + "/kmod" + tt.tag + old
			}
			r := request(ref)
			first, err := s.Ensure(t.Context(), r)
			require.NoError(t, err)
			require.Equal(t, old, first.Digest)
			changed := testModules()
			changed["opt/lib/modules/"+testRelease+"/a.ko"] = "module a, new"
			digests := map[string]string{
				"old": old, "new": imagestest.Push(t, tag, imagestest.Layer(t, changed)),
			}
			reg.Requests()

			r.PullPolicy = tt.policy
			up, err := s.Ensure(t.Context(), r)
			require.NoError(t, err)
			assert.Equal(t, digests[tt.up], up.Digest)
			assert.Equal(t, tt.requests, len(reg.Requests()) > 0)

			reg.Close()
			down, err := s.Ensure(t.Context(), r)
			require.NoError(t, err)
			assert.Equal(t, digests[tt.up], down.Digest)
			assert.Equal(t, tt.down == "stale", down.Stale)
		})
	}
}

func TestNeverPulls(t *testing.T) {
	reg, s := imagestest.NewRegistry(t), openStore(t)
	r := request(reg.Host + "/kmod:v1")
	imagestest.Push(t, r.Ref, imagestest.Layer(t, testModules()))
	reg.Requests()
	r.PullPolicy = PullNever
	_, err := s.Ensure(t.Context(), r)
	assert.ErrorIs(t, err, ErrNotCached)
	assert.Empty(t, reg.Requests())
}

// The tag has moved, but the new layers can not be had: the old image stays,
// and the next try asks again.
func TestStaleWhenTheLayersFail(t *testing.T) {
	reg, s := imagestest.NewRegistry(t), openStore(t)
	r := request(reg.Host + "/kmod:latest")
	old := imagestest.Push(t, r.Ref, imagestest.Layer(t, testModules()))
	_, err := s.Ensure(t.Context(), r)
	require.NoError(t, err)
	changed := testModules()
	changed["new"] = "1"
	fresh := imagestest.Push(t, r.Ref, imagestest.Layer(t, changed))
	reg.Handle(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		if strings.Contains(req.URL.Path, "/blobs/") {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		next.ServeHTTP(w, req)
	})
	tree, err := s.Ensure(t.Context(), r)
	require.NoError(t, err)
	assert.True(t, tree.Stale)
	assert.Equal(t, old, tree.Digest)
	reg.Handle(nil)
	tree, err = s.Ensure(t.Context(), r)
	require.NoError(t, err)
	assert.False(t, tree.Stale)
	assert.Equal(t, fresh, tree.Digest)
}

func TestSecondPullFetchesNoLayer(t *testing.T) {
	reg, s := imagestest.NewRegistry(t), openStore(t)
	r := request(reg.Host + "/kmod:latest")
	imagestest.Push(t, r.Ref, imagestest.Layer(t, testModules()))
	_, err := s.Ensure(t.Context(), r)
	require.NoError(t, err)
	reg.Requests()
	_, err = s.Ensure(t.Context(), r)
	require.NoError(t, err)
	assert.Equal(t, []string{"GET /v2/kmod/manifests/latest"}, reg.Requests())
}

func TestVerify(t *testing.T) {
	tests := []struct {
		name   string
		damage func(t *testing.T, tree *Tree) // made to the stored tree
		bad    string                         // the path that is named
	}{
		{"changed byte", func(t *testing.T, tree *Tree) {
			require.NoError(t, os.WriteFile(filepath.Join(tree.ModulesDir, "a.ko"), []byte("module A"), 0o644))
		}, "a.ko"},
		{"cut", func(t *testing.T, tree *Tree) {
			require.NoError(t, os.Truncate(filepath.Join(tree.FirmwareDir, "b.bin"), 3))
		}, "b.bin"},
		{"missing", func(t *testing.T, tree *Tree) {
			require.NoError(t, os.Remove(filepath.Join(tree.ModulesDir, "extra/b.ko")))
		}, "extra/b.ko"},
		{"link instead", func(t *testing.T, tree *Tree) {
			p := filepath.Join(tree.ModulesDir, "a.ko")
			require.NoError(t, os.Rename(p, tree.ModulesDir+"/../other"))
			require.NoError(t, os.Symlink("../other", p))
		}, "a.ko"},
		{"too many", func(t *testing.T, tree *Tree) {
			require.NoError(t, os.WriteFile(filepath.Join(tree.ModulesDir, "evil.ko"), nil, 0o644))
		}, "evil.ko"},
		{"a directory whose name is no text", func(t *testing.T, tree *Tree) {
			require.NoError(t, os.Mkdir(filepath.Join(tree.ModulesDir, "li\xff"), 0o755))
		}, "li\xff"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			reg, s := imagestest.NewRegistry(t), openStore(t)
			r := request(reg.Host + "/kmod:v1")
			imagestest.Push(t, r.Ref, imagestest.Layer(t, testModules()))
			tree, err := s.Ensure(t.Context(), r)
			require.NoError(t, err)
			tt.damage(t, tree)

			err = tree.Verify()
			require.ErrorIs(t, err, ErrDigest)
			assert.ErrorContains(t, err, tt.bad)

			reg.Handle(func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
				http.Error(w, "gone for lunch", http.StatusInternalServerError)
			})
			_, err = s.Ensure(t.Context(), r)
			require.ErrorIs(t, err, ErrDigest)
			require.ErrorIs(t, err, ErrUnreachable)

			reg.Handle(nil)
			healed, err := s.Ensure(t.Context(), r)
			require.NoError(t, err)
			require.NoError(t, healed.Verify())
			assert.Len(t, contents(t, healed.ModulesDir), 3)
		})
	}
}

func TestVerifySomeFiles(t *testing.T) {
	reg, s := imagestest.NewRegistry(t), openStore(t)
	r := request(reg.Host + "/kmod:v1")
	imagestest.Push(t, r.Ref, imagestest.Layer(t, testModules()))
	tree, err := s.Ensure(t.Context(), r)
	require.NoError(t, err)
	a, b := filepath.Join(tree.ModulesDir, "a.ko"), filepath.Join(tree.ModulesDir, "extra/b.ko")
	require.NoError(t, os.WriteFile(b, []byte("module B"), 0o644))
	assert.NoError(t, tree.Verify(a))
	assert.ErrorIs(t, tree.Verify(a, b), ErrDigest)
	assert.ErrorIs(t, tree.Verify("/etc/passwd"), ErrDigest)
	assert.ErrorIs(t, tree.Verify("a.ko"), ErrDigest)
}

func TestOpenWipesOnlyAbandonedWork(t *testing.T) {
	s := openStore(t)
	half := s.path("tmp", "pull-1")
	require.NoError(t, os.MkdirAll(filepath.Join(half, "tree"), 0o755))
	working, ok, err := s.lock(unix.LOCK_SH) // another process, at work
	require.NoError(t, err)
	require.True(t, ok)
	_, err = Open(s.dir, Options{})
	require.NoError(t, err)
	assert.DirExists(t, half)
	require.NoError(t, working.Close()) // killed
	_, err = Open(s.dir, Options{})
	require.NoError(t, err)
	assert.NoDirExists(t, half)
}

func TestTwoStoresPullTheSame(t *testing.T) {
	reg, one := imagestest.NewRegistry(t), openStore(t)
	two, err := Open(one.dir, Options{})
	require.NoError(t, err)
	r := request(reg.Host + "/kmod:v1")
	imagestest.Push(t, r.Ref, imagestest.Layer(t, testModules()))
	results := make(chan error, 2)
	for _, s := range []*Store{one, two} {
		go func() {
			tree, err := s.Ensure(t.Context(), r)
			if err == nil {
				err = tree.Verify()
			}
			results <- err
		}()
	}
	assert.NoError(t, <-results)
	assert.NoError(t, <-results)
	assert.Len(t, names(t, one.path("trees")), 1)
	assert.Empty(t, names(t, one.path("tmp")))
}

func BenchmarkWarm(b *testing.B) {
	reg, s := imagestest.NewRegistry(b), openStore(b)
	files := map[string]string{}
	for i := range 500 {
		name := "opt/lib/modules/" + testRelease + "/m" + string(rune('a'+i%26)) + "/" + time.Duration(i).String() + ".ko"
		files[name] = strings.Repeat(name, 1500) // 500 files, 35 MB
	}
	r := request(reg.Host + "/kmod:v1")
	r.FirmwarePath = ""
	imagestest.Push(b, r.Ref, imagestest.Layer(b, files))
	_, err := s.Ensure(b.Context(), r)
	require.NoError(b, err)
	for b.Loop() {
		tree, err := s.Ensure(b.Context(), r)
		require.NoError(b, err)
		require.NoError(b, tree.Verify(filepath.Join(tree.ModulesDir, "ma/0s.ko")))
	}
}
