// SPDX-License-Identifier: Apache-2.0

package secureboot

import (
	"encoding/pem"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/test/docs"
)

const (
	quickstart = "docs/quickstart/secure-boot.md"
	hello      = "/kmmd-test/hello" // from ./prepare
	requests   = "/sys/firmware/efi/efivars/%s-605dab50-e046-4300-abb6-3dd810dd8b23"
)

// TestPages: what the page says is done, word for word, on a machine on which
// somebody has confirmed the key.
func TestPages(t *testing.T) {
	if boot() != "mok" {
		t.Skip("the page is about keys of the machine's owner")
	}
	require.Equal(t, []string{quickstart}, docs.Labs()["secureboot"].Pages)
	shell, err := docs.NewShell(hello)
	require.NoError(t, err)
	t.Cleanup(shell.Close)
	r := docs.Reader{Shell: shell, Root: "../../..", Dir: hello, Before: answer}
	foreign := foreignCertificate(t)
	r.Read(t, quickstart, "secureboot")
	assert.Contains(t, variable(t, "MokNew"), foreign, "mokutil asks to have it enrolled")
	own, err := os.ReadFile(hello + "/signing.der")
	require.NoError(t, err)
	assert.Contains(t, variable(t, "MokDel"), string(own))
}

// answer gives mokutil the password that it asks for. The page's key is enrolled
// already, which it would see: another one is to be enrolled in its place.
func answer(_ *testing.T, c *docs.Command) bool {
	if strings.HasPrefix(c.Text, "mokutil --import") || strings.HasPrefix(c.Text, "mokutil --delete") {
		c.Text = `printf 'secret\nsecret\n' | ` + c.Text
	}
	if strings.Contains(c.Text, "--import signing.der") {
		c.Text = "mv signing.der own.der && cp foreign.der signing.der && " + c.Text + "\nmv own.der signing.der"
	}
	return true
}

// foreignCertificate puts one that the machine does not know beside the page's.
func foreignCertificate(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile("/kmmd-test/keys/foreign.crt")
	require.NoError(t, err)
	block, _ := pem.Decode(data)
	require.NotNil(t, block)
	require.NoError(t, os.WriteFile(hello+"/foreign.der", block.Bytes, 0o644))
	return string(block.Bytes)
}

// variable is one of shim's.
func variable(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(strings.Replace(requests, "%s", name, 1))
	require.NoError(t, err)
	return string(data)
}
