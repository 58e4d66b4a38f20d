// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/exit"
	"github.com/kmm-node/kmmd/pkg/images/imagestest"
	"github.com/kmm-node/kmmd/pkg/kernel/kerneltest"
	"github.com/kmm-node/kmmd/pkg/kmod/kmodtest"
	"github.com/kmm-node/kmmd/pkg/sign"
)

// signer is a key, and its certificate in a file.
func signer(t *testing.T) (s *sign.Signer, certFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "module key"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	s, err = sign.New(key, cert, 0)
	require.NoError(t, err)
	return s, write(t, filepath.Join(t.TempDir(), "cert.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
}

// readResult reads what a Job would say.
func readResult(t *testing.T, file string) result {
	t.Helper()
	data, err := os.ReadFile(file)
	require.NoError(t, err)
	assert.LessOrEqual(t, len(data), maxResult)
	assert.Equal(t, 1, strings.Count(string(data), "\n"), "one line")
	var r result
	require.NoError(t, json.Unmarshal(data, &r), string(data))
	return r
}

func TestImageCheck(t *testing.T) {
	_, config := root(t)
	scratch := t.TempDir()
	t.Setenv("TMPDIR", scratch)
	registry := imagestest.NewRegistry(t)
	good, old := registry.Host+"/drivers/a:1", registry.Host+"/drivers/a:old"
	s, cert := signer(t)
	module := func(release string, m kmodtest.Spec) []byte {
		m.Vermagic = kerneltest.Vermagic(release)
		return kmodtest.Build(m)
	}
	signedC, err := s.Sign(module(nextKernel, kmodtest.Spec{Name: "c"}))
	require.NoError(t, err)
	below := "opt/lib/modules/" + nextKernel + "/"
	layer := imagestest.Layer(t, map[string]string{
		"firmware/fw.bin": "fw", below + "b.ko": string(module(nextKernel, kmodtest.Spec{Name: "b"})), below + "c.ko": string(signedC),
		below + "a.ko": string(module(nextKernel, kmodtest.Spec{Name: "a", Depends: []string{"b", "mdio"}, Params: []kmodtest.Param{{Name: "level", Type: "int"}}})),
	})
	digest := imagestest.Push(t, good, layer)
	imagestest.Push(t, old, imagestest.Layer(t, map[string]string{below + "a.ko": string(module("9.9.8-old", kmodtest.Spec{Name: "a"}))}))
	layout := filepath.Join(t.TempDir(), "image")
	imagestest.AddToLayout(t, layout, imagestest.Image(t, layer), nil)
	own := t.TempDir()
	kmodtest.WriteTree(t, own, map[string]kmodtest.Spec{"kernel/mdio.ko": {InTree: true, Vermagic: kerneltest.Vermagic(nextKernel)}})
	links := t.TempDir()
	require.NoError(t, os.Symlink(filepath.Join(own, "kernel/mdio.ko"), filepath.Join(links, "mdio.ko")))

	for _, tt := range []struct {
		name   string
		args   string
		reason string // of the result; nothing is no problem
		says   string // of the output, or the error
	}{
		{"the module", "--module a --from " + good, "", "unknown: a: needs mdio, which is not in the image: the kernel has to bring it (ModuleNotFound)\n2 files fit kernel " + nextKernel},
		{"of a layout", "--module a --from oci:" + layout, "", "2 files fit"},
		{"all of them", "--from " + good, "", "3 files fit"},
		{"with its firmware", "--module a --firmware /firmware --from " + good, "", "2 files fit"},
		{"with the kernel's own modules", "--module a --modules-dir " + own + " --from " + good, "", digest + "\nfile    /" + below + "b.ko\nfile    /" + below + "a.ko\n2 files fit"},
		{"with links to the kernel's own modules", "--module a --modules-dir " + links + " --from " + good, "", "a.ko\n2 files fit"},
		{"with a parameter", "--module a --parameter level=3 --from " + good, "", "2 files fit"},
		{"signed", "--module c --signed --cert " + cert + " --from " + good, "", "1 files fit"},
		{"some of them signed", "--module a --module c --signed --cert " + cert + " --files /opt/lib/modules/*/[!ab].ko --from " + good, "", "3 files fit"},
		{"by force", "--module a --force-vermagic --from " + old, "", "1 files fit"},

		{"not in that directory", "--module a --dir /srv --from " + good, "NoModules", "/srv/lib/modules/" + nextKernel},
		{"of another kernel", "--module a --from " + old, "WrongKernel", `says "9.9.8-old"`},
		{"another module", "--module d --from " + good, "ModuleNotFound", "find module d in /opt/lib/modules/" + nextKernel},
		{"without that firmware", "--module a --firmware /lib/firmware --from " + good, "FirmwareMissing", "/lib/firmware"},
		{"with a parameter that is gone", "--module a --parameter depth=3 --from " + good, "InvalidParameter", "depth"},
		{"not signed", "--module a --signed --from " + good, "Signature", "/opt/lib/modules/" + nextKernel + "/a.ko is not signed"},
		{"no such image", "--module a --from " + registry.Host + "/drivers/none:1", "ImageNotFound", "none"},
		{"no such layout", "--module a --from oci:/does/not/exist", "ImageUnreachable", "/does/not/exist"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "result")
			args := append([]string{"image", "check", "--config", config, "--kernel", nextKernel, "--insecure-from", "--result", file}, strings.Fields(tt.args)...)
			out, err := kmmd(t, args...)
			r := readResult(t, file)
			assert.Equal(t, tt.reason == "", r.OK)
			assert.Equal(t, tt.reason, r.Reason)
			if err == nil {
				assert.Contains(t, out, "digest  "+r.Digest+"\n")
				assert.Contains(t, out, tt.says)
				assert.Contains(t, r.Message, "files fit kernel "+nextKernel)
			} else {
				assert.Equal(t, 1, exitCode(err), err)
				assert.Contains(t, out+err.Error(), tt.says)
				assert.Contains(t, r.Message, tt.says)
			}
			assert.Equal(t, tt.reason == "", err == nil, "%v", err)
			left, err := filepath.Glob(scratch + "/kmmd-*")
			require.NoError(t, err)
			assert.Empty(t, left)
		})
	}

	t.Run("as JSON", func(t *testing.T) {
		out, err := kmmd(t, "image", "check", "--config", config, "--kernel", nextKernel, "--insecure-from", "--module", "a", "--from", old, "-o", "json")
		require.ErrorIs(t, err, errNotAsWanted)
		var c checked
		require.NoError(t, json.Unmarshal([]byte(out), &c), out)
		assert.False(t, c.OK)
		assert.Equal(t, []string{"/" + below + "a.ko"}, c.Files)
		require.Len(t, c.Findings, 1)
	})
	t.Run("a registry that asks who is there", func(t *testing.T) {
		registry.Handle(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if user, password, _ := r.BasicAuth(); user != "joe" || password != "secret" {
				w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			next.ServeHTTP(w, r)
		})
		defer registry.Handle(nil)
		logins := write(t, filepath.Join(t.TempDir(), "logins"), `{"auths": {"`+registry.Host+`": {"username": "joe", "password": "secret"}}}`)
		check := []string{"image", "check", "--config", config, "--kernel", nextKernel, "--insecure-from", "--module", "a", "--from", good}
		_, err := kmmd(t, check...)
		require.Error(t, err)
		_, err = kmmd(t, append(check, "--authfile", logins)...)
		require.NoError(t, err)
		_, err = kmmd(t, append(check, "--authfile", "/does/not/exist", "--authfile", logins)...)
		require.NoError(t, err, "a pull secret that is not there leaves a directory without the file")
	})
}

func TestImageCheckUsage(t *testing.T) {
	dir, config := root(t)
	file := write(t, filepath.Join(dir, "text"), "text")
	for _, args := range []string{
		"", "--from a:1", "--kernel 6.1.0-1", "--from a:1 --kernel ../x", "--from a:1 --kernel 6.1.0-1 extra", "--from a:1 --kernel 6.1.0-1 --cert " + file,
		"--from a:1 --kernel 6.1.0-1 --files /a.ko", "--from a:1 --kernel 6.1.0-1 --signed --cert /does/not/exist", "--from a:1 --kernel 6.1.0-1 --signed --cert " + file,
		"--from a:1 --kernel 6.1.0-1 --signed --files a.ko", "--from a:1 --kernel 6.1.0-1 --modules-dir /does/not/exist", "--from a:1 --kernel 6.1.0-1 --authfile /dev",
		"--from a:1 --kernel 6.1.0-1 --authfile " + file, "--from no-tag --kernel 6.1.0-1",
	} {
		_, err := kmmd(t, append([]string{"image", "check", "--config", config}, strings.Fields(args)...)...)
		require.Error(t, err, args)
		assert.Equal(t, int(exit.Usage), exitCode(err), "%s: %v", args, err)
	}
}

// TestResult: whatever is to be said, Kubernetes keeps it whole.
func TestResult(t *testing.T) {
	for _, n := range []int{0, 1, 3900, 3990, 4000, 5000, 100000} {
		for _, unit := range []string{"x", "ü", `"`, "\x00", "😀"} {
			file := filepath.Join(t.TempDir(), "result")
			long := result{Image: "reg/a:1", Reason: "WrongKernel", Message: strings.Repeat(unit, n)}
			f, err := openResult(file)
			require.NoError(t, err)
			require.NoError(t, long.write(f))
			r := readResult(t, file)
			assert.Equal(t, "WrongKernel", r.Reason)
			assert.True(t, n < 3900 || len(r.Message) > 600, "%d %q: %d", n, unit, len(r.Message))
			assert.True(t, r.Message == long.Message || strings.HasSuffix(r.Message, "…"), "%d %q", n, unit)
			assert.NotContains(t, r.Message, "�")
		}
	}
}
