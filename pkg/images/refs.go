// SPDX-License-Identifier: Apache-2.0

package images

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// tagRecord is what a tag stood for.
type tagRecord struct {
	Ref    string `json:"ref"`
	Digest string `json:"digest"`
}

func (s *Store) tagPath(q *query) string {
	sum := sha256.Sum256([]byte(q.ref.Name()))
	return s.path("refs", hex.EncodeToString(sum[:])+".json")
}

// tag returns the digest the tag of q stood for the last time, or "".
func (s *Store) tag(q *query) string {
	b, err := os.ReadFile(s.tagPath(q))
	var r tagRecord
	if err != nil || json.Unmarshal(b, &r) != nil || r.Ref != q.ref.Name() || !isDigest(r.Digest) {
		return ""
	}
	return r.Digest
}

func (s *Store) setTag(q *query, digest string) error {
	if q.digest != "" || s.tag(q) == digest {
		return nil
	}
	b, err := json.Marshal(tagRecord{Ref: q.ref.Name(), Digest: digest})
	if err != nil {
		return err
	}
	return s.writeFile(s.tagPath(q), b)
}

// writeFile replaces path: whoever reads it, or looks after a crash, sees the
// old content or the new. The caller holds the lock, shared.
func (s *Store) writeFile(path string, b []byte) error {
	if err := s.step("write " + filepath.Base(path)); err != nil {
		return err
	}
	f, err := os.CreateTemp(s.path("tmp"), "file-")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = s.step("rename " + filepath.Base(path))
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// ignoreMissing is for removals.
func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
