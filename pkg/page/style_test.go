// SPDX-License-Identifier: Apache-2.0

package page_test

import (
	"math"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/page"
)

var variable = regexp.MustCompile(`--([a-z-]+): #([0-9a-f]{6});`)

// luminance as WCAG 2.2 defines it.
func luminance(t *testing.T, hex string) float64 {
	t.Helper()
	v, err := strconv.ParseUint(hex, 16, 32)
	require.NoError(t, err)
	channel := func(shift int) float64 {
		c := float64(v>>shift&0xff) / 255
		if c <= 0.04045 {
			return c / 12.92
		}
		return math.Pow((c+0.055)/1.055, 2.4)
	}
	return 0.2126*channel(16) + 0.7152*channel(8) + 0.0722*channel(0)
}

// TestContrast: text has 4.5 to 1 against what is behind it, lines and outlines 3
// to 1, by day and by night.
func TestContrast(t *testing.T) {
	day, night, ok := strings.Cut(page.Style(), "prefers-color-scheme: dark")
	require.True(t, ok)
	for scheme, css := range map[string]string{"day": day, "night": night} {
		colours := map[string]string{}
		for _, m := range variable.FindAllStringSubmatch(css, -1) {
			colours[m[1]] = m[2]
		}
		require.Len(t, colours, 13, scheme)
		for _, pair := range []struct {
			front, back string
			ratio       float64
		}{
			{"text", "page", 4.5}, {"quiet", "page", 4.5}, {"link", "page", 4.5}, {"line", "page", 3},
			{"bad", "bad-page", 4.5}, {"busy", "busy-page", 4.5}, {"good", "good-page", 4.5}, {"calm", "calm-page", 4.5},
			{"link", "calm-page", 3},
		} {
			a, b := luminance(t, colours[pair.front]), luminance(t, colours[pair.back])
			got := (max(a, b) + 0.05) / (min(a, b) + 0.05)
			assert.GreaterOrEqual(t, got, pair.ratio, "%s: %s on %s", scheme, pair.front, pair.back)
		}
	}
}
