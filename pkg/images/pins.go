// SPDX-License-Identifier: Apache-2.0

package images

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
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
	at := s.pinPath(owner)
	if len(digests) == 0 {
		if err = s.step("unpin"); err == nil {
			err = errors.Join(ignoreMissing(os.Remove(at)), syncDir(s.path("pins")))
		}
	} else if old, _ := readPin(at); old.Owner != owner || !slices.Equal(old.Digests, digests) {
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

// unreadable stands before the name of a damaged record, as if it were an owner.
const unreadable = "unreadable record pins/"

func (s *Store) pinPath(owner string) string {
	if base, ok := strings.CutPrefix(owner, unreadable); ok && filepath.IsLocal(base) {
		return s.path("pins", base)
	}
	sum := sha256.Sum256([]byte(owner))
	return s.path("pins", hex.EncodeToString(sum[:])+".json")
}

func readPin(path string) (pinRecord, error) {
	var r pinRecord
	b, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	return r, err
}

// pins gives the owners, sorted, of each pinned digest, and those of whatever may
// be pinned.
func (s *Store) pins() (owners map[string][]string, ofAll []string, err error) {
	paths, err := filepath.Glob(s.path("pins", "*.json"))
	if err != nil {
		return nil, nil, err
	}
	owners = map[string][]string{}
	for _, p := range paths {
		r, err := readPin(p)
		if errors.Is(err, fs.ErrNotExist) {
			continue // taken back meanwhile
		}
		if err != nil || s.pinPath(r.Owner) != p {
			ofAll = append(ofAll, unreadable+filepath.Base(p))
			continue
		}
		for _, d := range r.Digests {
			owners[d] = append(owners[d], r.Owner)
		}
	}
	for _, o := range owners {
		slices.Sort(o)
	}
	return owners, ofAll, nil
}
