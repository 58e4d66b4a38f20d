// SPDX-License-Identifier: Apache-2.0

package sign_test

import (
	"bytes"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/sign"
	"github.com/kmm-node/kmmd/test/debian"
)

// labTools are programs of the kernels in the lab, and a real module.
type labTools struct {
	signFile string
	module   string
}

// eachLabKernel skips the test without KMMD_LAB: sign-file is no part of the
// repository.
func eachLabKernel(t *testing.T, test func(t *testing.T, lab labTools)) {
	t.Helper()
	dir, releases := debian.Kernels(t)
	for _, release := range releases {
		t.Run(release, func(t *testing.T) {
			found, err := filepath.Glob(filepath.Join(dir, release, "usr/lib/linux-kbuild-*/scripts/sign-file"))
			require.NoError(t, err)
			require.Len(t, found, 1, "sign-file of %s", release)
			test(t, labTools{found[0], filepath.Join(dir, release, "modules-oot/dummy.ko")})
		})
	}
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Env = append(os.Environ(), "KBUILD_SIGN_PIN="+passphrase, "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s: %s", cmd, out)
	return string(out)
}

func (l labTools) sign(t *testing.T, args ...string) []byte {
	t.Helper()
	out := filepath.Join(t.TempDir(), "signed.ko")
	run(t, l.signFile, append(args, l.module, out)...)
	b, err := os.ReadFile(out)
	require.NoError(t, err)
	return b
}

// keyFile is a path for sign-file.
func keyFile(name string) string { return filepath.Join("testdata/keys", name) }

// TestLabSameAsSignFile compares every byte, for all keys that sign-file reads; those
// in DER, which it does not, are the same key.
func TestLabSameAsSignFile(t *testing.T) {
	eachLabKernel(t, func(t *testing.T, lab labTools) {
		plain, err := os.ReadFile(lab.module)
		require.NoError(t, err)
		compared := 0
		theirs := make(map[string][]byte)
		files := testKeys(t, "rsa")
		slices.SortStableFunc(files, func(a, b string) int { return strings.Compare(filepath.Ext(b), filepath.Ext(a)) }) // .pem, .der
		for _, file := range files {
			key := testKey(t, file)
			for _, cert := range []string{"rsa.crt", "rsa.crt.der"} {
				for _, h := range hashes {
					ours := signed(t, newSigner(t, key, testCertificate(t, cert), h.hash), plain)
					name := cert + " " + h.name
					if !strings.HasSuffix(file, ".der") {
						theirs[name] = lab.sign(t, h.name, keyFile(file), keyFile(cert))
					}
					assert.True(t, bytes.Equal(theirs[name], ours), "%s %s", file, name)
					compared++
				}
			}
		}
		assert.GreaterOrEqual(t, compared, 30)
		assert.NoError(t, sign.Verify(lab.sign(t, "-k", "sha256", keyFile("rsa-pkcs8.pem"), keyFile("rsa.crt")), testCertificate(t, "rsa.crt")))
	})
}

// TestLabECDSA: sign-file's signatures are other ones every time, so both sides
// verify the other's: openssl and modinfo ours, and Verify theirs.
func TestLabECDSA(t *testing.T) {
	eachLabKernel(t, func(t *testing.T, lab labTools) {
		plain, err := os.ReadFile(lab.module)
		require.NoError(t, err)
		for _, kind := range []string{"p256", "p384", "p521", "rsa"} {
			cert := testCertificate(t, kind+".crt")
			for _, h := range hashes {
				t.Run(kind+" "+h.name, func(t *testing.T) {
					ours := signed(t, newSigner(t, testKey(t, kind+"-pkcs8.pem"), cert, h.hash), plain)
					theirs := lab.sign(t, h.name, keyFile(kind+"-pkcs8.pem"), keyFile(kind+".crt"))
					require.NoError(t, sign.Verify(theirs, cert))
					assert.Equal(t, readSignature(t, theirs), readSignature(t, ours))
					opensslVerify(t, plain, ours[len(plain):len(ours)-40], keyFile(kind+".crt"))

					dir := t.TempDir()
					var told []string
					for name, module := range map[string][]byte{"ours": ours, "theirs": theirs} {
						path := filepath.Join(dir, name, "dummy.ko")
						require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
						require.NoError(t, os.WriteFile(path, module, 0o644))
						for _, field := range []string{"sig_id", "signer", "sig_key", "sig_hashalgo"} {
							told = append(told, run(t, "modinfo", "-F", field, path))
						}
					}
					assert.Equal(t, told[:4], told[4:])
					assert.Equal(t, []string{"PKCS#7\n", cert.Subject.CommonName + "\n", h.name + "\n"}, []string{told[0], told[1], told[3]})
					key, err := hex.DecodeString(strings.ReplaceAll(strings.TrimSpace(told[2]), ":", ""))
					require.NoError(t, err)
					assert.Equal(t, cert.SerialNumber.Bytes(), strip0(key))
				})
			}
		}
	})
}

func strip0(b []byte) []byte { return []byte(strings.TrimLeft(string(b), "\x00")) }

func opensslVerify(t *testing.T, content, der []byte, cert string) {
	t.Helper()
	dir := t.TempDir()
	module, signature := filepath.Join(dir, "module"), filepath.Join(dir, "signature")
	require.NoError(t, os.WriteFile(module, content, 0o644))
	require.NoError(t, os.WriteFile(signature, der, 0o644))
	run(t, "openssl", "cms", "-verify", "-inform", "der", "-in", signature, "-content", module, "-binary",
		"-certfile", cert, "-nointern", "-noverify", "-out", os.DevNull)
}
