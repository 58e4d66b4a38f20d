// SPDX-License-Identifier: Apache-2.0

package images

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// pinRecord is what one owner needs.
type pinRecord struct {
	Owner   string   `json:"owner"`
	Digests []string `json:"digests"`
}

// Pin says that owner needs the images of these digests, and no others any
// more; without digests it needs none. Pinned images are not removed, neither
// by Remove and Prune nor to make room, by this process or another. They need
// not be in the store yet. Pins are there until they are taken back.
func (s *Store) Pin(owner string, digests ...string) error {
	for _, d := range digests {
		if !isDigest(d) {
			return fmt.Errorf("%w: pin %q for %s: not sha256:…", ErrInvalidRef, d, owner)
		}
	}
	done, err := s.change()
	if err != nil {
		return fmt.Errorf("pin images for %s: %w", owner, err)
	}
	defer done()
	digests = slices.Compact(slices.Sorted(slices.Values(digests)))
	sum := sha256.Sum256([]byte(owner))
	at := s.path("pins", hex.EncodeToString(sum[:])+".json")
	if len(digests) == 0 {
		if err = s.step("unpin"); err == nil {
			err = errors.Join(ignoreMissing(os.Remove(at)), syncDir(s.path("pins")))
		}
	} else if old, _ := readPin(at); !slices.Equal(old.Digests, digests) {
		var b []byte
		if b, err = json.Marshal(pinRecord{Owner: owner, Digests: digests}); err == nil {
			err = s.writeFile(at, b)
		}
	}
	if err != nil {
		return fmt.Errorf("pin images for %s: %w", owner, err)
	}
	return nil
}

func readPin(path string) (pinRecord, error) {
	var r pinRecord
	b, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	return r, err
}

// pins gives the owners, sorted, of each pinned digest. A record that can not be
// read is an error: nobody knows what it keeps.
func (s *Store) pins() (map[string][]string, error) {
	paths, err := filepath.Glob(s.path("pins", "*.json"))
	if err != nil {
		return nil, err
	}
	out := map[string][]string{}
	for _, p := range paths {
		r, err := readPin(p)
		if err != nil {
			return nil, fmt.Errorf("read pins: %s: %w: remove that file when nothing it may keep is needed", p, err)
		}
		for _, d := range r.Digests {
			out[d] = append(out[d], r.Owner)
		}
	}
	for _, owners := range out {
		slices.Sort(owners)
	}
	return out, nil
}
