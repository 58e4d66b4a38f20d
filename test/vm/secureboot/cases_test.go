// SPDX-License-Identifier: Apache-2.0

package secureboot

import (
	"bytes"
	"crypto"
	"os"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/ulikunitz/xz"

	"github.com/kmm-node/kmmd/pkg/kmod"
	"github.com/kmm-node/kmmd/pkg/sign"
)

// sample is a module file, and what is known of it beforehand.
type sample struct {
	name string
	file []byte
	// What the lab is meant to be: loads where the keys are trusted; loads nowhere.
	good, never bool
	forced      bool // its version magic is ignored
	compressed  bool // the kernel unpacks it
	// guess says that the prediction is not certain, and right all the same; unverifiable that it says not to know.
	guess, unverifiable bool
}

// want is what the kernel has to answer, "" when it depends on its version.
func (c sample) want() sign.Answer {
	switch {
	case c.never:
		return sign.Refused
	case c.good && trusting():
		return sign.Accepted
	case c.good && enforcing():
		return sign.Refused
	}
	return ""
}

// cases are all files.
func cases(t *testing.T, tree *kmod.Tree) []sample {
	t.Helper()
	module, err := os.ReadFile(modules + "kmm_base.ko")
	require.NoError(t, err)
	return slices.Concat(plain(t, module), spoilt(t, module), keys(t, module), shapes(t, module), others(t, module, tree))
}

// signed signs as the product does.
func signed(t *testing.T, module []byte, by string, hash crypto.Hash) []byte {
	t.Helper()
	p := readPair(t, by)
	s, err := sign.New(p.key, p.cert, hash)
	require.NoError(t, err)
	out, err := s.Sign(module)
	require.NoError(t, err)
	return out
}

// plain are those that signers make.
func plain(t *testing.T, m []byte) []sample {
	t.Helper()
	list := []sample{
		{name: "unsigned", file: m},
		{name: "sha256", file: signed(t, m, "trusted", crypto.SHA256), good: true},
		{name: "sha384", file: signed(t, m, "trusted", crypto.SHA384), good: true},
		{name: "sha512", file: signed(t, m, "trusted", crypto.SHA512), good: true},
		{name: "ec", file: signed(t, m, "trusted-ec", crypto.SHA256)},
		{name: "ec-sha384", file: signed(t, m, "trusted-ec", crypto.SHA384)},
		{name: "foreign", file: signed(t, m, "foreign", crypto.SHA256)},
		{name: "foreign-sha512", file: signed(t, m, "foreign", crypto.SHA512)},
		{name: "foreign-ec", file: signed(t, m, "foreign-ec", crypto.SHA256)},
	}
	return list
}

// spoilt are those that were changed since.
func spoilt(t *testing.T, m []byte) []sample {
	t.Helper()
	good, foreign := signed(t, m, "trusted", crypto.SHA256), signed(t, m, "foreign", crypto.SHA256)
	ec := signed(t, m, "trusted-ec", crypto.SHA256)
	inside := bytes.Index(m, []byte("description=")) + 14 // what is changed is not looked at when it loads
	longer := slices.Concat(m, tail(2, len(m)+1))
	return []sample{
		{name: "tampered", file: flip(good, inside)},
		{name: "tampered-foreign", file: flip(foreign, inside)},
		{name: "tampered-ec", file: flip(ec, inside)},
		{name: "value-changed", file: flip(good, -50)},
		{name: "value-changed-foreign", file: flip(foreign, -50)},
		{name: "value-changed-ec", file: flip(ec, -50)},
		{name: "stripped", file: sign.Strip(good)},
		{name: "cut-by-one", file: good[:len(good)-1]},
		{name: "garbage-behind", file: append(bytes.Clone(good), "garbage"...)},
		{name: "newline-behind", file: append(bytes.Clone(good), '\n')},
		{name: "mark-only", file: append(bytes.Clone(m), "~Module signature appended~\n"...)},
		{name: "length-zero", file: slices.Concat(m, tail(2, 0)), never: true},
		{name: "length-too-long", file: longer, never: true},
		{name: "not-pkcs7-type", file: slices.Concat(m, tail(1, 100))},
		{name: "algo-set", file: flip(good, -40), never: true},
		{name: "cms-damaged", file: flip(good, len(m)), never: true},
		{name: "cms-cut", file: slices.Concat(good[:len(good)-100], tail(2, len(good)-len(m)-100)), never: true},
		{name: "twice-foreign-inside", file: form{}.append(t, foreign, readPair(t, "trusted")), good: true},
		{name: "twice-foreign-outside", file: form{}.append(t, good, readPair(t, "foreign"))},
		{name: "twice-trusted", file: form{}.append(t, good, readPair(t, "trusted")), good: true},
	}
}

// keys are by keys and certificates of many kinds.
func keys(t *testing.T, m []byte) []sample {
	t.Helper()
	authority, issued, foreign := readPair(t, "trusted-authority"), readPair(t, "issued"), readPair(t, "foreign")
	trusted, ec, foreignEC := readPair(t, "trusted"), readPair(t, "trusted-ec"), readPair(t, "foreign-ec")
	chain := form{certificates: []pair{issued}}.append(t, m, issued)
	alone := form{certificates: []pair{foreign}}.append(t, m, foreign)
	inside := bytes.Index(m, []byte("description=")) + 14
	return []sample{
		{name: "rsa-4096", file: signed(t, m, "trusted-large", crypto.SHA256), good: true},
		{name: "expired", file: signed(t, m, "trusted-expired", crypto.SHA256), good: true},
		{name: "no-key-id", file: signed(t, m, "trusted-bare", crypto.SHA256), good: true},
		{name: "authority", file: signed(t, m, "trusted-authority", crypto.SHA256), good: true},
		{name: "same-name-and-serial", file: signed(t, m, "twin", crypto.SHA256)},
		{name: "issued", file: signed(t, m, "issued", crypto.SHA256)},
		{name: "issued-with-certificate", file: chain, good: true},
		{name: "issued-with-both", file: form{certificates: []pair{authority, issued}}.append(t, m, issued), good: true},
		{name: "issued-tampered", file: flip(chain, inside), never: true},
		{name: "with-certificate", file: form{certificates: []pair{trusted}}.append(t, m, trusted), good: true},
		{name: "foreign-with-certificate", file: alone},
		{name: "foreign-with-cert-tampered", file: flip(alone, inside), never: true},
		{name: "with-a-stranger's", file: form{certificates: []pair{foreign}}.append(t, m, trusted), good: true},
		{name: "ec-with-certificate", file: form{certificates: []pair{ec}}.append(t, m, ec), guess: true},
		{name: "foreign-ec-with-certificate", file: form{certificates: []pair{foreignEC}}.append(t, m, foreignEC), guess: true},
	}
}

// shapes are signatures of other forms.
func shapes(t *testing.T, m []byte) []sample {
	t.Helper()
	trusted, foreign, ec := readPair(t, "trusted"), readPair(t, "foreign"), readPair(t, "trusted-ec")
	make := func(f form) []byte { return f.append(t, m, trusted) }
	return []sample{
		{name: "attached", file: make(form{attached: []byte("x")}), never: true},
		{name: "attached-module", file: make(form{attached: m}), never: true},
		{name: "attached-64k", file: make(form{attached: bytes.Repeat(m, 1<<16/len(m)+1)}), never: true},
		{name: "attached-foreign", file: form{attached: []byte("x")}.append(t, m, foreign), never: true},
		{name: "attributes", file: make(form{attributes: true}), never: true, guess: true},
		{name: "attributes-foreign", file: form{attributes: true}.append(t, m, foreign), never: true, guess: true},
		{name: "by-key-id", file: make(form{keyID: true}), good: true},
		{name: "by-key-id-foreign", file: form{keyID: true}.append(t, m, foreign)},
		{name: "versions-mixed", file: make(form{version: 3}), never: true},
		{name: "version-unknown", file: make(form{version: 2}), never: true},
		{name: "content-type", file: make(form{contentType: oidSignedData}), never: true},
		{name: "rsa-with-hash", file: make(form{algorithm: oidSHA256RSA}), guess: true},
		{name: "hash-unknown", file: make(form{hashOID: oidNothing}), guess: true},
		{name: "sha1", file: make(form{hash: crypto.SHA1, hashOID: oidSHA1})},
		{name: "sha224", file: make(form{hash: crypto.SHA224, hashOID: oidSHA224})},
		{name: "sha3", file: make(form{hash: crypto.SHA3_256, hashOID: oidSHA3}), guess: true},
		{name: "wrong-hash-named", file: make(form{hash: crypto.SHA224})},
		{name: "two-signers", file: form{second: &trusted}.append(t, m, foreign), good: true},
		{name: "two-signers-turned", file: form{second: &foreign}.append(t, m, trusted), good: true},
		{name: "two-signers-foreign", file: form{second: &foreign}.append(t, m, foreign)},
		{name: "rsa-named-as-ec", file: form{algorithm: oidECDSA256}.append(t, m, trusted)},
		{name: "ec-named-as-rsa", file: form{algorithm: oidRSA}.append(t, m, ec)},
	}
}

// others are loaded in another way, or are the distribution's.
func others(t *testing.T, m []byte, tree *kmod.Tree) []sample {
	t.Helper()
	good := signed(t, m, "trusted", crypto.SHA256)
	list := []sample{{name: "forced", file: good, forced: true}}
	if data, err := os.ReadFile("/sys/module/compression"); err == nil && string(bytes.TrimSpace(data)) == "xz" {
		list = append(list,
			sample{name: "compressed", file: compress(t, good), compressed: true, good: true},
			sample{name: "compressed-foreign", file: compress(t, signed(t, m, "foreign", crypto.SHA256)), compressed: true})
	}
	path, ok := tree.Find("dummy")
	require.True(t, ok)
	var own bytes.Buffer
	require.NoError(t, kmod.Decompress(path, &own))
	return append(list,
		sample{name: "in-tree", file: own.Bytes(), guess: true},
		sample{name: "in-tree-tampered", file: flip(own.Bytes(), bytes.Index(own.Bytes(), []byte("license="))-3), unverifiable: true},
		sample{name: "in-tree-stripped", file: sign.Strip(own.Bytes())},
		sample{name: "in-tree-signed-again", file: signed(t, own.Bytes(), "trusted", crypto.SHA256), good: true},
	)
}

func compress(t *testing.T, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := xz.WriterConfig{CheckSum: xz.CRC32}.NewWriter(&out) // the one the kernel knows
	require.NoError(t, err)
	_, err = w.Write(b)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return out.Bytes()
}
