// SPDX-License-Identifier: Apache-2.0

package watcher

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

func TestContentVersion(t *testing.T) {
	data := map[string][]byte{"a": []byte("1"), "b": []byte("2")}
	is := contentVersion("uid", data)
	assert.Equal(t, is, contentVersion("uid", map[string][]byte{"b": []byte("2"), "a": []byte("1")}))
	for name, other := range map[string]string{
		"a value":      contentVersion("uid", map[string][]byte{"a": []byte("1"), "b": []byte("3")}),
		"a key":        contentVersion("uid", map[string][]byte{"a": []byte("1"), "c": []byte("2")}),
		"one less":     contentVersion("uid", map[string][]byte{"a": []byte("1")}),
		"moved across": contentVersion("uid", map[string][]byte{"a": []byte(`1"b"2`)}),
		"made anew":    contentVersion("other", data),
	} {
		assert.NotEqual(t, is, other, name)
	}
}

// TestVersionsAreReadAgain, and not for every look.
func TestVersionsAreReadAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var v versions
		reads, text, err := 0, "FROM a", error(nil)
		read := func() (types.UID, map[string][]byte, error) {
			reads++
			return "", map[string][]byte{dockerfileKey: []byte(text)}, err
		}
		first, fault := v.of("ConfigMap ns/a", read)
		require.NoError(t, fault)
		assert.False(t, first.hostModules)
		text = "RUN ls /host/lib/modules"
		again, fault := v.of("ConfigMap ns/a", read)
		require.NoError(t, fault)
		assert.Equal(t, first, again, "what was read a moment ago")
		assert.Equal(t, 1, reads)
		time.Sleep(fresh) // of the test's clock
		now, fault := v.of("ConfigMap ns/a", read)
		require.NoError(t, fault)
		assert.NotEqual(t, first.text, now.text)
		assert.True(t, now.hostModules)

		var missing *errMissing
		err = apierrors.NewNotFound(schema.GroupResource{Resource: "configmaps"}, "b")
		_, fault = v.of("ConfigMap ns/b", read)
		require.ErrorAs(t, fault, &missing)
		assert.EqualError(t, fault, "ConfigMap ns/b is not there")
		err = errors.New("no answer")
		_, fault = v.of("ConfigMap ns/b", read)
		require.ErrorIs(t, fault, err)
		assert.NotErrorAs(t, fault, &missing, "nobody knows")
	})
}

// TestConceal: what a build prints of its Secrets is not told.
func TestConceal(t *testing.T) {
	var v versions
	for id, data := range map[string]map[string][]byte{
		"Secret ns/licence": {"key": []byte("Tops3cret-licence\n"), "short": []byte("abc"), "more": []byte("first-line\n  second-line\n")},
		"Secret ns/binary":  {"key": {0xff, 0xfe, 0xfd, 0xfc, 0xfb, 0xfa, 0xf9}},
		"Secret nsx/theirs": {"key": []byte("another-namespace")},
	} {
		_, err := v.of(id, func() (types.UID, map[string][]byte, error) { return "uid", data, nil })
		require.NoError(t, err)
	}
	_, err := v.of("ConfigMap ns/dockerfile", func() (types.UID, map[string][]byte, error) {
		return "", map[string][]byte{"dockerfile": []byte("RUN everybody-may-read-this\n")}, nil
	})
	require.NoError(t, err)
	for said, told := range map[string]string{
		"": "", "curl -H 'Key: Tops3cret-licence' failed": "curl -H 'Key: […]' failed", "+ echo second-line first-line": "+ echo […] […]",
		"abc": "abc", "RUN everybody-may-read-this": "RUN everybody-may-read-this",
		"is it another-namespace?": "is it another-namespace?", // else a log would tell what is in Secrets of others
	} {
		assert.Equal(t, told, v.conceal("ns", said))
	}
	assert.Equal(t, "Tops3cret-licence […]", v.conceal("nsx", "Tops3cret-licence another-namespace"))
}

// TestConcealWhatIsLeft: of one Secret in another nothing is left, nor of one that lies where a log was cut.
func TestConcealWhatIsLeft(t *testing.T) {
	var v versions
	for id, content := range map[string]string{
		"Secret ns/short": "password123", "Secret ns/url": "https://user:password123@mirror.example", "Secret ns/longer": "a-much-longer-one-that-ends-in-password123",
		"Secret ns/umlauts": "geheim-für-üble-Zwecke",
	} {
		_, err := v.of(id, func() (types.UID, map[string][]byte, error) {
			return "uid", map[string][]byte{"key": []byte(content)}, nil
		})
		require.NoError(t, err)
	}
	for said, told := range map[string]string{
		"+ curl https://user:password123@mirror.example\n":     "+ curl […]\n",
		"ser:password123@mirror.example\nfailed":               "[…]\nfailed",
		"ends-in-password123 and password123":                  "[…] and […]",
		"failed: https://user:pass":                            "failed: […]",
		"password123@mirror.example":                           "[…]",
		"mirror.example https://user":                          "[…] […]",
		"ample is no part that tells anything: https://user:p": "ample is no part that tells anything: […]",
		"?ble-Zwecke\nfailed":                                  "[…]\nfailed",
		"\ufffdr-üble-Zwecke: no":                              "[…]: no",
		"failed: geheim-für-?":                                 "failed: […]",
		"?ble-Zwecke":                                          "[…]",
		"failed, why?":                                         "failed, why?",
		"nothing":                                              "nothing",
		"":                                                     "",
	} {
		assert.Equal(t, told, v.concealLog("ns", said))
		assert.Equal(t, said, v.concealLog("other", said))
	}
}
