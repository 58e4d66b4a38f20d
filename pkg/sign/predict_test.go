// SPDX-License-Identifier: Apache-2.0

package sign_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"math/big"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/sign"
)

// owner signs with a certificate of its own.
type owner struct {
	*sign.Signer
	cert *x509.Certificate
}

func newOwner(t *testing.T, name string, serial int64, id string) owner {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name}, SubjectKeyId: []byte(id)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	s, err := sign.New(key, cert, 0)
	require.NoError(t, err)
	return owner{s, cert}
}

func (o owner) sign(t *testing.T, module []byte) []byte {
	t.Helper()
	out, err := o.Sign(module)
	require.NoError(t, err)
	return out
}

// ringKey is how the kernel shows its key.
func (o owner) ringKey() sign.Key {
	id := hex.EncodeToString(o.cert.SubjectKeyId)
	if id == "" {
		id = "00" + hex.EncodeToString(o.cert.SerialNumber.Bytes())
	}
	return sign.Key{Subject: o.cert.Subject.CommonName, ID: id}
}

// object is the least that passes for a module.
func object() []byte {
	b := append([]byte("\x7fELF\x02\x01\x01"), make([]byte, 57)...)
	b[16] = 1 // ET_REL
	return append(b, "some code"...)
}

func flipped(b []byte, at int) []byte {
	b = bytes.Clone(b)
	b[at] ^= 1
	return b
}

const debian = "Linux version 6.1.0-1-amd64 (debian-kernel@lists.debian.org) (gcc-12 (Debian 12.2.0)) #1 SMP"

// machine is a kernel with Secure Boot on: own is built in and not shown, db and MOK have one key each.
func machine(t *testing.T) (p *sign.Policy, own, db, mok, stranger owner) {
	t.Helper()
	own, db, mok = newOwner(t, "build key", 1, "own"), newOwner(t, "in db", 2, "db"), newOwner(t, "in MOK", 0xf3, "")
	taken, err := sign.Read(bytes.NewReader(own.sign(t, object())))
	require.NoError(t, err)
	return &sign.Policy{
		Release: "6.1.0-1-amd64", Version: debian, SigEnforce: sign.Yes, Lockdown: "integrity", SecureBoot: sign.Yes,
		Rings: []sign.Ring{
			{Name: ".builtin_trusted_keys", Known: true, Keys: []sign.Key{own.ringKey()}},
			{Name: ".secondary_trusted_keys", Known: true, Rings: []string{".builtin_trusted_keys", ".machine"}},
			{Name: ".machine", Known: true, Keys: []sign.Key{mok.ringKey()}},
			{Name: ".platform", Known: true, Keys: []sign.Key{db.ringKey()}},
		},
		Certificates: []sign.Certificate{{"db", db.cert}, {"MOK", mok.cert}},
		Trusted:      []sign.Signature{*taken},
	}, own, db, mok, newOwner(t, "stranger", 4, "who")
}

func predict(t *testing.T, file []byte, p *sign.Policy) sign.Prediction {
	t.Helper()
	e, err := sign.Examine(bytes.NewReader(file))
	require.NoError(t, err)
	return sign.Predict(e, false, p)
}

// TestPredict has each kind of file on a kernel that wants signatures, and on one that wants none.
func TestPredict(t *testing.T) {
	p, own, db, mok, stranger := machine(t)
	open := *p
	open.SigEnforce, open.Lockdown = sign.No, "none"
	m := object()
	refused, accepted := sign.Refused, sign.Accepted
	for _, tt := range []struct {
		name      string
		file      []byte
		answer    sign.Answer // where signatures are wanted
		certain   bool
		otherwise sign.Answer
		tainted   bool // otherwise
		reason    string
	}{
		{"unsigned", m, refused, true, accepted, true, "unsigned, and module.sig_enforce is on"},
		{"db", db.sign(t, m), accepted, true, accepted, false, `signed by "in db" (serial 02), which is in db`},
		{"MOK", mok.sign(t, m), accepted, true, accepted, false, `signed by "in MOK" (serial f3), which is in MOK`},
		{"stranger", stranger.sign(t, m), refused, true, accepted, true, `signed by "stranger" (serial 04), which is in neither MOK nor db nor built into the kernel, and module.sig_enforce is on`},
		{"changed", flipped(db.sign(t, m), 70), refused, true, refused, false, `signed by "in db" (serial 02), and changed since: module and signature do not match`},
		{"changed, by a stranger", flipped(stranger.sign(t, m), 70), refused, true, accepted, true, "neither MOK nor db"},
		{"the kernel's own", own.sign(t, m), accepted, false, accepted, false, `signed by "build key" (serial 01), a key this kernel has taken modules of; whether`},
		{"damaged", flipped(db.sign(t, m), len(m)), refused, true, refused, false, "its signature can not be read (not PKCS#7)"},
		{"of another kind", slices.Concat(m, []byte("\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x05~Module signature appended~\n")), refused, true, accepted, true, "no kernel checks"},
		{"twice, stranger last", append(db.sign(t, m), stranger.sign(t, m)[len(m):]...), refused, true, accepted, true, "neither MOK nor db"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := predict(t, tt.file, p)
			assert.Equal(t, tt.answer, got.Answer, got.Reason)
			assert.Equal(t, tt.certain, got.Certain, got.Reason)
			assert.False(t, got.Tainted)
			assert.Contains(t, got.Reason, tt.reason)
			got = predict(t, tt.file, &open)
			assert.Equal(t, tt.otherwise, got.Answer, got.Reason)
			assert.Equal(t, tt.tainted, got.Tainted, got.Reason)
		})
	}
	e, err := sign.Examine(bytes.NewReader(db.sign(t, m)))
	require.NoError(t, err)
	assert.Equal(t, `to be loaded by force, which makes its signature void, and module.sig_enforce is on: the kernel refuses it`, sign.Predict(e, true, p).String())
	assert.Equal(t, `unsigned: the kernel takes it, and taints itself (E)`, predict(t, m, &open).String())
}

// TestLessIsKnown: what is not read is not assumed.
func TestLessIsKnown(t *testing.T) {
	p, _, db, mok, stranger := machine(t)
	m := object()
	change := func(edit func(*sign.Policy)) *sign.Policy {
		q := *p
		q.Rings = slices.Clone(p.Rings)
		edit(&q)
		return &q
	}
	for _, tt := range []struct {
		name    string
		policy  *sign.Policy
		file    []byte
		answer  sign.Answer
		certain bool
		reason  string
	}{
		{"lockdown alone", change(func(p *sign.Policy) { p.SigEnforce = sign.No }), m, sign.Refused, true, "unsigned, and lockdown=integrity is on"},
		{"Secure Boot alone", change(func(p *sign.Policy) { p.SigEnforce, p.Lockdown = sign.No, "" }), m, sign.Refused, false, "Secure Boot is on (whether"},
		{"nothing", &sign.Policy{}, m, sign.Accepted, false, "unsigned"},
		{"no keyrings", change(func(p *sign.Policy) { p.Rings = nil }), stranger.sign(t, m), sign.Unknown, false, "keyrings can not be read; module.sig_enforce is on"},
		{"no keyrings, db", change(func(p *sign.Policy) { p.Rings = nil }), db.sign(t, m), sign.Unknown, false, "which is in db; whether the kernel has loaded it is not known"},
		{"no keyrings, changed", change(func(p *sign.Policy) { p.Rings = nil }), flipped(db.sign(t, m), 70), sign.Refused, false, "changed since"},
		{"a ring without its keys", change(func(p *sign.Policy) { p.Rings[0] = sign.Ring{Name: ".builtin_trusted_keys"} }), stranger.sign(t, m), sign.Unknown, false, "can not be read"},
		{"one more key built in", change(func(p *sign.Policy) {
			p.Rings[0].Keys = append(slices.Clone(p.Rings[0].Keys), sign.Key{Subject: "other", ID: "aa"})
		}), stranger.sign(t, m), sign.Refused, false, "neither MOK nor db"},
		{"a key of that name", change(func(p *sign.Policy) {
			p.Rings[0].Keys = append(slices.Clone(p.Rings[0].Keys), sign.Key{Subject: "stranger", ID: "aa"})
		}), stranger.sign(t, m), sign.Unknown, false, "the kernel has a key of that name"},
		{"not loaded", change(func(p *sign.Policy) { p.Rings[3].Keys = nil }), db.sign(t, m), sign.Refused, true, "which is in db but not among the kernel's keys"},
		{"mainline, db", change(func(p *sign.Policy) { p.Version = "Linux version 6.1.0 (me@here) #1" }), db.sign(t, m), sign.Unknown, false, "whether this kernel takes modules by keys of .platform"},
		{"mainline, MOK", change(func(p *sign.Policy) { p.Version = "Linux version 6.1.0 (me@here) #1" }), mok.sign(t, m), sign.Accepted, true, "in MOK"},
		{".machine by itself", change(func(p *sign.Policy) { p.Rings[1].Rings = nil }), mok.sign(t, m), sign.Refused, true, "of which this kernel takes no modules (.machine)"},
		{"no sha256", change(func(p *sign.Policy) { p.Algorithms = map[string]sign.State{"sha256": sign.No} }), db.sign(t, m), sign.Refused, true, "with hash sha256, which this kernel does not have"},
		{"no UEFI", change(func(p *sign.Policy) { p.Certificates, p.Rings[2].Keys, p.Rings[3].Keys = nil, nil, nil }), stranger.sign(t, m), sign.Refused, true, "in none of the kernel's keyrings"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := predict(t, tt.file, tt.policy)
			assert.Equal(t, tt.answer, got.Answer, got.Reason)
			assert.Equal(t, tt.certain, got.Certain, got.Reason)
			assert.Contains(t, got.Reason, tt.reason)
		})
	}
	assert.Equal(t, sign.Prediction{Answer: sign.Accepted, Certain: true, Reason: "this kernel checks no signatures"}, predict(t, m, &sign.Policy{Checks: sign.No}))
	s, err := sign.Read(bytes.NewReader(db.sign(t, m)))
	require.NoError(t, err)
	got := sign.Predict(s.Evidence(), false, p)
	assert.Equal(t, sign.Accepted, got.Answer)
	assert.False(t, got.Certain, "nobody has looked at the content")
}

func TestPolicyLines(t *testing.T) {
	p, _, _, _, _ := machine(t)
	assert.Equal(t, strings.TrimSpace(`
modules without a trusted signature are refused: module.sig_enforce is on
Secure Boot is on
db has "in db" (serial 02), which is in .platform
MOK has "in MOK" (serial f3), which is in .machine
.builtin_trusted_keys has "build key" (key id 6f776e)`), strings.Join(p.Lines(), "\n"))
	assert.Equal(t, []string{
		"whether modules without a trusted signature are refused is not known (sig_enforce, lockdown)", "the kernel's keyrings can not be read",
	}, (&sign.Policy{}).Lines())
}

func FuzzExamine(f *testing.F) {
	f.Add(append(object(), "\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x00\x05~Module signature appended~\n"...))
	f.Fuzz(func(t *testing.T, file []byte) {
		e, err := sign.Examine(bytes.NewReader(file))
		require.NoError(t, err)
		sign.Predict(e, false, &sign.Policy{SigEnforce: sign.Yes})
	})
}
