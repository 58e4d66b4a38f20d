// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/kernel"
	"github.com/kmm-node/kmmd/pkg/kmod"
	"github.com/kmm-node/kmmd/pkg/sign"
)

func TestFacts(t *testing.T) {
	h := open(t)
	out, err := run(t, "uname", "-r")
	require.NoError(t, err)
	assert.Equal(t, strings.TrimSpace(out), h.Release())
	assert.Contains(t, h.Cmdline(), "console=")

	require.NoError(t, load(t, h, "kmm_base.ko", `level=3 label="a b" secret=4 hidden=5`, 0))
	unload(t, h, "kmm_base")
	info, err := kmod.ReadInfo(filepath.Join(modules, "kmm_base.ko"))
	require.NoError(t, err)
	m, err := h.Module("kmm_base")
	require.NoError(t, err)
	assert.Equal(t, info.BuildID, m.BuildID)
	assert.Equal(t, info.SrcVersion, m.SrcVersion)
	assert.Equal(t, map[string]string{
		"level": "3", "count": "2", "flag": "N", "negated": "Y", "label": "a b", "list": "", "big": "4294967296",
		"octet": "7", "small": "-3", "fixed": "fixed", "secret": "4", "bare": "0", "switched": "0",
	}, m.Parameters)

	list, err := h.Modules()
	require.NoError(t, err)
	lsmod, err := run(t, "lsmod")
	require.NoError(t, err)
	lines := strings.Split(strings.TrimSpace(lsmod), "\n")[1:]
	require.Len(t, list, len(lines))
	for i, m := range list {
		f := append(strings.Fields(lines[i]), "")
		shown := []string{m.Name, strconv.FormatInt(m.Size, 10), strconv.Itoa(m.Refs)}
		assert.Equal(t, f[:3], shown)
		assert.ElementsMatch(t, strings.FieldsFunc(f[3], func(r rune) bool { return r == ',' }), m.UsedBy, m.Name)
		full, err := h.Module(m.Name)
		require.NoError(t, err)
		assert.Len(t, full.BuildID, 40, m.Name)
	}
}

// TestCompressed lets the kernel undo the compression of its own module, if it can.
func TestCompressed(t *testing.T) {
	h := open(t)
	want := map[string]string{"6.1": "", "6.12": "xz"}[os.Getenv("KMMD_VM_KERNEL")]
	require.Equal(t, want, h.Compression())
	compressed := func(path string) error {
		f, err := os.Open(path)
		require.NoError(t, err)
		defer f.Close()
		return h.Load(t.Context(), kernel.LoadRequest{Name: "dummy", File: f, Compressed: true})
	}
	if want == "" {
		err := compressed(filepath.Join(modules, "dummy.ko"))
		require.ErrorIs(t, err, syscall.EOPNOTSUPP)
		assert.Equal(t, kernel.Other, kernel.CauseOf(err))
		return
	}
	unload(t, h, "dummy")
	require.NoError(t, compressed(inTreeFile(t, h.Release())))
	err := compressed(filepath.Join(modules, "dummy.ko"))
	require.ErrorIs(t, err, syscall.EINVAL)
	assert.Equal(t, kernel.NotAModule, kernel.CauseOf(err), "%v", err)

	require.NoError(t, h.Unload(t.Context(), "dummy", time.Minute))
	require.NoError(t, compressed(signedAndPacked(t, filepath.Join(modules, "dummy.ko"), want)), "signed and packed by us")
}

// signedAndPacked is a module with a signature by a key that nobody knows, in the kernel's compression.
func signedAndPacked(t *testing.T, path, kind string) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "nobody"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	signer, err := sign.New(key, cert, 0)
	require.NoError(t, err)
	plain, err := os.ReadFile(path)
	require.NoError(t, err)
	signed, err := signer.Sign(plain)
	require.NoError(t, err)
	packed, err := kmod.Compress(kind, signed)
	require.NoError(t, err)
	out := filepath.Join(t.TempDir(), "dummy.ko")
	require.NoError(t, os.WriteFile(out, packed, 0o644))
	return out
}

// TestVariants are the refusals that the fake kernel does not know.
func TestVariants(t *testing.T) {
	h := open(t)
	tests := []struct {
		variant string
		errno   syscall.Errno
		cause   kernel.Cause
		log     string
	}{
		{"init-fails", syscall.EIO, kernel.InitFailed, "dummy: "},
		{"wrong-crc", syscall.EINVAL, kernel.SymbolVersion, "dummy: disagrees about version of symbol "},
		{"wrong-layout", syscall.ENOEXEC, kernel.SymbolVersion, "dummy: disagrees about version of symbol module_layout"},
		{"wrong-machine", syscall.ENOEXEC, kernel.NotAModule, "Invalid"},
	}
	for _, tt := range tests {
		t.Run(tt.variant, func(t *testing.T) {
			err := load(t, h, "variants/"+tt.variant+"/dummy.ko", "", 0)
			require.ErrorIs(t, err, tt.errno)
			assert.Equal(t, tt.cause, kernel.CauseOf(err))
			assert.ErrorContains(t, err, tt.log)
		})
	}
	t.Run("an errno without a name", func(t *testing.T) {
		err := load(t, h, "kmm_fail.ko", "err=-517", 0)
		assert.ErrorContains(t, err, `load kmm_fail: finit_module: EPROBE_DEFER (errno 517); kernel: "kmm_fail: no such hardware (-517)"`)
		assert.Equal(t, kernel.InitFailed, kernel.CauseOf(err))
	})
}

// TestLogOfOthers: what user space writes to the log, however it looks, is not the kernel's word.
func TestLogOfOthers(t *testing.T) {
	h := open(t)
	kmsg, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0)
	require.NoError(t, err)
	defer kmsg.Close()
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				_, _ = kmsg.WriteString("<3>kmm_fail: a lie\n")
			}
		}
	}()
	for range 5 {
		err := load(t, h, "kmm_fail.ko", "", 0)
		var e *kernel.Error
		require.ErrorAs(t, err, &e)
		assert.Equal(t, []string{"kmm_fail: no such hardware (-19)"}, e.Log)
	}
	close(stop)
	<-stopped
}

func TestFirmwarePath(t *testing.T) {
	h := open(t)
	require.NoError(t, h.SetFirmwarePath("/some/where"))
	raw, err := os.ReadFile("/sys/module/firmware_class/parameters/path")
	require.NoError(t, err)
	assert.Equal(t, "/some/where\n", string(raw))
	require.NoError(t, h.SetFirmwarePath(""))
	raw, err = os.ReadFile("/sys/module/firmware_class/parameters/path")
	require.NoError(t, err)
	assert.Equal(t, "\n", string(raw))
}

// TestWatchOverflow floods the socket while nobody reads it: the watch must say so and live on.
func TestWatchOverflow(t *testing.T) {
	h := open(t)
	require.NoError(t, load(t, h, "kmm_base.ko", "", 0))
	unload(t, h, "kmm_base")
	uevent, err := os.OpenFile("/sys/module/kmm_base/uevent", os.O_WRONLY, 0)
	require.NoError(t, err)
	defer uevent.Close()

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	calls, gone := 0, false
	ready, flooded, told, ended := make(chan struct{}), make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- h.WatchModules(ctx, func() { close(ready) }, func() {
			switch calls++; calls {
			case 1:
				<-flooded
			case 2: // the loss, and what the kernel has kept
				close(told)
			}
			if _, err := h.Module("kmm_base"); err != nil {
				gone = true
				cancel()
			}
		})
	}()
	<-ready
	const events = 20000
	for range events {
		_, err := uevent.WriteString("add")
		require.NoError(t, err)
	}
	close(flooded)
	select {
	case <-told:
	case <-ctx.Done():
		require.Fail(t, "the loss was not told")
	}
	require.NoError(t, h.Unload(t.Context(), "kmm_base", 0))
	require.NoError(t, <-ended)
	assert.True(t, gone)
	assert.Less(t, calls, events, "nothing was lost, so nothing was tested")
}
