// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/exit"
	"github.com/kmm-node/kmmd/pkg/kmod"
	"github.com/kmm-node/kmmd/pkg/sign"
)

const signData = "../../pkg/sign/testdata/"

// signKey are flags with a key of pkg/sign's tests.
func signKey(key, cert string) []string {
	return []string{"sign", "--key", signData + "keys/" + key, "--cert", signData + "keys/" + cert}
}

// copyModule puts a module of pkg/sign's tests into dir, packed as the name says.
func copyModule(t *testing.T, dir, from, name string) string {
	t.Helper()
	data, err := os.ReadFile(signData + from)
	require.NoError(t, err)
	kind := map[string]string{".gz": "gzip", ".xz": "xz", ".zst": "zstd"}[filepath.Ext(name)]
	data, err = kmod.Compress(kind, data)
	require.NoError(t, err)
	return write(t, filepath.Join(dir, name), string(data))
}

func plain(t *testing.T, path string) string {
	t.Helper()
	var b strings.Builder
	require.NoError(t, kmod.Decompress(path, &b))
	return b.String()
}

func TestSign(t *testing.T) {
	want, err := os.ReadFile(signData + "hello.rsa-sha256.ko")
	require.NoError(t, err)
	const by = `by "Acme: module key" serial 9f00a1b2c3, sha256`
	for _, name := range []string{"hello.ko", "hello.ko.gz", "hello.ko.xz", "hello.ko.zst"} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := copyModule(t, dir, "hello.ko", name)
			require.NoError(t, os.Chmod(path, 0o640))
			flags := signKey("rsa-pkcs8.pem", "rsa.crt")

			out, err := kmmd(t, append(flags, path)...)
			require.NoError(t, err)
			assert.Equal(t, path+": signed, "+by+"\n", out)
			assert.Equal(t, string(want), plain(t, path))
			st, err := os.Stat(path)
			require.NoError(t, err)
			assert.Equal(t, os.FileMode(0o640), st.Mode())
			assert.Equal(t, []string{name}, names(t, dir), "nothing is left beside it")

			out, err = kmmd(t, append(flags, path)...)
			require.NoError(t, err)
			assert.Equal(t, path+": signed already, "+by+"\n", out)
			again, err := os.Stat(path)
			require.NoError(t, err)
			assert.True(t, os.SameFile(st, again), "the file is left as it is")

			out, err = kmmd(t, "sign", "--verify", "--cert", signData+"keys/rsa.crt", path)
			require.NoError(t, err)
			assert.Equal(t, path+": verified, "+by+"\n", out)
			_, err = kmmd(t, "sign", "--verify", "--cert", signData+"keys/p256.crt", path)
			assert.ErrorIs(t, err, sign.ErrSigner)
			assert.ErrorContains(t, err, "verify "+path)

			out, err = kmmd(t, append(signKey("rsa-pkcs8.pem", "rsa.crt"), "--hash=sha512", path)...)
			require.NoError(t, err)
			assert.Contains(t, out, ": signed, ", "another hash")
			for _, text := range []string{"signature removed", "has no signature"} {
				out, err = kmmd(t, "sign", "--strip", path)
				require.NoError(t, err)
				assert.Equal(t, path+": "+text+"\n", out)
			}
		})
	}
}

// TestSignLeavesOthersSignatures: those of ECDSA are other ones every time sign-file
// makes one.
func TestSignLeavesOthersSignatures(t *testing.T) {
	path := copyModule(t, t.TempDir(), "hello.p256-sha256.ko", "hello.ko")
	out, err := kmmd(t, append(signKey("p256-pbes2.pem", "p256.crt"), "--passphrase-file", write(t, path+".pass", "secret"), path)...)
	require.NoError(t, err)
	assert.Contains(t, out, "signed already")
	assert.Equal(t, plain(t, signData+"hello.p256-sha256.ko"), plain(t, path))
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	var list []string
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

// TestSignTriesEveryFile has good files between bad ones.
func TestSignTriesEveryFile(t *testing.T) {
	dir := t.TempDir()
	text := write(t, filepath.Join(dir, "text.ko"), "this is no module, but some text")
	cut := write(t, filepath.Join(dir, "cut.ko.xz"), "\xfd7zXZ\x00\x00\x01")
	fifo, link := filepath.Join(dir, "fifo.ko"), filepath.Join(dir, "link.ko")
	require.NoError(t, syscall.Mkfifo(fifo, 0o600))
	one, two := copyModule(t, dir, "hello.ko", "sub/one.ko"), copyModule(t, dir, "hello.p256-sha256.ko", "two.ko")
	require.NoError(t, os.Symlink("sub/one.ko", link))
	gone := filepath.Join(dir, "gone.ko")

	out, err := kmmd(t, append(signKey("rsa-both.pem", "rsa-both.pem"), "-o", "json", text, link, cut, fifo, dir, gone, two)...)
	assert.Equal(t, int(exit.NotAsWanted), exitCode(err))
	assert.ErrorIs(t, err, sign.ErrNotModule)
	assert.ErrorIs(t, err, kmod.ErrFormat)
	assert.ErrorIs(t, err, os.ErrNotExist)
	assert.ErrorContains(t, err, "sign "+fifo+": no regular file")
	var got []signedFile
	require.NoError(t, json.Unmarshal([]byte(out), &got))
	require.Len(t, got, 7)
	signed := signedFile{File: link, Result: "signed", Issuer: "Acme: module key", Serial: "9f00a1b2c3", Hash: "sha256"}
	assert.Equal(t, signed, got[1])
	signed.File = two
	assert.Equal(t, signed, got[6], "another's signature is replaced")
	for _, i := range []int{0, 2, 3, 4, 5} {
		assert.Equal(t, "error", got[i].Result)
		assert.Contains(t, got[i].Error, got[i].File)
	}
	assert.Equal(t, "this is no module, but some text", plain(t, text))
	assert.Equal(t, plain(t, one), plain(t, two))
	target, err := os.Readlink(link)
	require.NoError(t, err)
	assert.Equal(t, "sub/one.ko", target, "a link stays a link")
}

func TestRewriteFile(t *testing.T) {
	dir := t.TempDir()
	path := write(t, filepath.Join(dir, "hello.ko"), "old")
	if os.Getuid() == 0 {
		require.NoError(t, os.Chown(path, 1234, 4321))
	}
	before, err := os.Stat(path)
	require.NoError(t, err)
	to := func(content string) func([]byte) ([]byte, error) {
		return func([]byte) ([]byte, error) { return []byte(content), nil }
	}
	changed, err := rewriteFile(path, to("new"))
	require.NoError(t, err)
	assert.True(t, changed)
	assert.Equal(t, "new", plain(t, path))
	after, err := os.Stat(path)
	require.NoError(t, err)
	owner, want := after.Sys().(*syscall.Stat_t), before.Sys().(*syscall.Stat_t)
	assert.Equal(t, []uint32{want.Uid, want.Gid}, []uint32{owner.Uid, owner.Gid})

	changed, err = rewriteFile(path, to("new"))
	require.NoError(t, err)
	assert.False(t, changed)
	_, err = rewriteFile(path, func([]byte) ([]byte, error) {
		require.NoError(t, os.Remove(path))
		require.NoError(t, os.Mkdir(path, 0o755))
		return []byte("newer"), nil
	})
	assert.Error(t, err)
	assert.Equal(t, []string{"hello.ko"}, names(t, dir), "what could not be put in its place is gone")
}

func TestSignPassphrase(t *testing.T) {
	dir := t.TempDir()
	path := copyModule(t, dir, "hello.ko", "hello.ko")
	flags := append(signKey("rsa-pbes2-aes-256-cbc.pem", "rsa.crt.der"), path)
	_, err := kmmd(t, flags...)
	assert.Equal(t, int(exit.Usage), exitCode(err))
	assert.ErrorContains(t, err, "none was given; it is taken from --passphrase-file or from the variable KBUILD_SIGN_PIN")

	t.Setenv("KBUILD_SIGN_PIN", "wrong")
	_, err = kmmd(t, flags...)
	assert.ErrorIs(t, err, sign.ErrPassphrase)
	_, err = kmmd(t, append(flags, "--passphrase-file", write(t, filepath.Join(dir, "passphrase"), "secret\r\nmore\n"))...)
	assert.NoError(t, err)
	t.Setenv("KBUILD_SIGN_PIN", "secret")
	out, err := kmmd(t, flags...)
	require.NoError(t, err)
	assert.Contains(t, out, "signed already")
}

func TestSignUsage(t *testing.T) {
	path := copyModule(t, t.TempDir(), "hello.ko", "hello.ko")
	none := filepath.Join(t.TempDir(), "none")
	for _, tt := range []struct {
		args    []string
		message string
	}{
		{[]string{"sign"}, "which modules?"},
		{[]string{"sign", path}, "with which key?"},
		{[]string{"sign", "--key", signData + "keys/rsa-pkcs8.pem", path}, "with which certificate?"},
		{[]string{"sign", "--verify", path}, "with which certificate?"},
		{[]string{"sign", "--verify", "--strip", path}, "give one of --key, --verify and --strip"},
		{append(signKey("rsa-pkcs8.pem", "rsa.crt"), "--strip", path), "give one of --key, --verify and --strip"},
		{append(signKey("rsa-pkcs8.pem", "rsa.crt"), "--hash", "md5", path), `--hash: hash "md5": not supported: sha256, sha384 and sha512 are`},
		{append(signKey("rsa-pkcs8.pem", "p256.crt"), path), `p256.crt: key and certificate do not belong together`},
		{append(signKey("bad-ed25519.pem", "rsa.crt"), path), "bad-ed25519.pem: read private key: key of type ed25519.PrivateKey: not supported"},
		{append(signKey("rsa-pkcs8.pem", "bad-public.der"), path), "bad-public.der: read certificate: this is a bare public key"},
		{[]string{"sign", "--key", none, "--cert", signData + "keys/rsa.crt", path}, "--key: open " + none},
		{[]string{"sign", "--verify", "--cert", none, path}, "--cert: open " + none},
		{append(signKey("rsa-pkcs8.pem", "rsa.crt"), "--passphrase-file", none, path), "--passphrase-file: open " + none},
	} {
		t.Run(strings.Join(tt.args, " "), func(t *testing.T) {
			_, err := kmmd(t, tt.args...)
			assert.Equal(t, int(exit.Usage), exitCode(err))
			assert.ErrorContains(t, err, tt.message)
		})
	}
	got, want := plain(t, path), plain(t, signData+"hello.ko")
	assert.Equal(t, want, got)
}
