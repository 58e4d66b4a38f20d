// SPDX-License-Identifier: Apache-2.0

package bundle

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// FuzzRedact puts a secret between anything else, in the ways in which secrets
// stand in files of a node. It is not in what comes out.
func FuzzRedact(f *testing.F) {
	f.Add("before ", " after", "hunter2hunter2", uint8(0))
	f.Add("x=\"", "\"\nmore", "S3cretS3cret", uint8(5))
	for i := range uint8(9) {
		f.Add("", "", "geheimgeheim", i)
	}
	f.Fuzz(func(t *testing.T, before, after, secret string, how uint8) {
		secret = lettersOf(secret)
		around, err := json.Marshal(before + after) // \u0000 has zeros of its own
		require.NoError(t, err)
		if len(secret) < 8 || strings.Contains(before+after, secret) || strings.Contains(string(around), secret) || strings.Contains(Redacted, secret) {
			return
		}
		var r Redactor
		text := ""
		switch how % 9 {
		case 0: // one that is known, anywhere
			r.Add(secret)
			text = before + secret + after
		case 1:
			text = "\npassword=" + secret + "\n"
		case 2:
			text = "\nget https://user:" + secret + "@registry.example/v2/\n"
		case 3:
			text = "\nAuthorization: Bearer " + secret + "\n"
		case 4:
			text = "\n{\"auth\": \"" + secret + "\"}\n"
		case 5:
			text = "\nkmmd --token " + secret + " --verbose\n"
		case 6:
			text = "\n-----BEGIN PRIVATE KEY-----\n" + secret + "\n-----END PRIVATE KEY-----\n"
		case 7:
			text = "\ninit=/bin/sh netroot=iscsi:user:" + secret + "@10.0.0.1\n"
		case 8:
			text = "\nidentity_token = \"" + secret + "\"\n"
		}
		if how%9 != 0 {
			// What is unfinished before it may take it for its own.
			before = strings.NewReplacer("\"", " ", "'", " ", "-----", " ").Replace(before)
			after = strings.ReplaceAll(after, "-----", " ")
			text = before + text + after
		}
		out := r.Text(text)
		assert.NotContains(t, out, secret)
		assert.NotContains(t, r.JSON(text), secret)
		assert.Equal(t, out, r.Text(text))
		document, err := json.Marshal(map[string]any{"a": []any{map[string]any{"registryPassword": secret, "b": before}}, "c": after})
		require.NoError(t, err)
		assert.NotContains(t, (&Redactor{}).JSON(string(document)), secret)
	})
}

func lettersOf(s string) string {
	return strings.Map(func(r rune) rune {
		if 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' {
			return r
		}
		return -1
	}, s)
}
