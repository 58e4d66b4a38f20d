// SPDX-License-Identifier: Apache-2.0

package images

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

// TestStagesNoMoreThanMayBeTaken: each staged file costs a file on disk, before it
// is known what the image looks like.
func TestStagesNoMoreThanMayBeTaken(t *testing.T) {
	j := &job{
		q: &query{Request: Request{Releases: []string{testRelease}}, firmware: "/firmware"},
		l: limits{fileSize: 10, selected: 100, files: 3}, store: &Store{o: Options{Quota: 1000}},
	}
	take := func(name string, size int64) bool { return j.mayTake(entry{name: name, kind: kindFile, size: size}) }
	assert.True(t, take(mods+"a.ko", 10))
	assert.True(t, take("usr/"+mods+"a.ko", 10), "there may be links")
	assert.True(t, take("firmware/a", 10))
	assert.False(t, take("etc/passwd", 10))
	assert.False(t, take(mods+"a.ko", 11), "too large")
	assert.False(t, take(mods+".wh.a.ko", 0), "a whiteout is no file")
	assert.False(t, take("firmware/.wh..wh..opq", 0))
	j.staged = 95
	assert.False(t, take(mods+"a.ko", 10), "too large together")
	assert.True(t, take(mods+"a.ko", 5))
	j.files = 4
	assert.False(t, take(mods+"a.ko", 5), "too many: it is refused anyway")
}
