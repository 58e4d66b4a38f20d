// SPDX-License-Identifier: Apache-2.0

package faults

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/kmm-node/kmmd/pkg/record"
)

// kept are the directories and files of a snapshot.
var kept = []string{stateDir, runDir, firmwareDir, filepath.Dir(holdFile), documents}

// snapshot is a node to come back to: what it runs, and its files.
type snapshot struct {
	dir  string
	runs []module // in load order
}

// save takes a snapshot of the node, which runs just these.
func save(t *testing.T, dir string, runs []module) *snapshot {
	t.Helper()
	s := &snapshot{dir: dir, runs: runs}
	require.NoError(t, os.MkdirAll(dir, 0o755))
	require.NoError(t, os.WriteFile(dir+bootFile, []byte(bootID(t)), 0o644))
	path, err := os.ReadFile(pathFile)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(dir+"/path", bytes.TrimRight(path, "\n"), 0o644))
	for _, path := range kept {
		require.NoError(t, copyTree(path, s.dir+path))
	}
	return s
}

// restore brings the node back.
func (s *snapshot) restore(t *testing.T) {
	t.Helper()
	wipe(t)
	for _, path := range kept {
		require.NoError(t, copyTree(s.dir+path, path))
	}
	s.renew(t)
	path, err := os.ReadFile(s.dir + "/path")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(pathFile, append(path, 0), 0o644))
	for _, m := range s.runs {
		m.load(t)
	}
}

// bootFile has the boot that a snapshot is of.
const bootFile = "/boot"

// renew makes what is restored the work of this boot.
func (s *snapshot) renew(t *testing.T) {
	t.Helper()
	ledger, err := os.ReadFile(runDir + "/ledger.json")
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	require.NoError(t, err)
	ledger, err = record.Open(ledger)
	require.NoError(t, err)
	ledger = bytes.ReplaceAll(ledger, []byte(line(t, s.dir+bootFile)), []byte(bootID(t)))
	require.NoError(t, os.WriteFile(runDir+"/ledger.json", record.Seal(ledger), 0o600))
}

// copyTree copies files and directories with their modes and times; names of one
// file are names of one file again.
func copyTree(from, to string) error {
	linked := map[uint64]string{}
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && path == from {
			return fs.SkipAll
		}
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		target := to + path[len(from):]
		if d.IsDir() {
			return os.MkdirAll(target, info.Mode().Perm())
		}
		inode := info.Sys().(*syscall.Stat_t).Ino
		if first := linked[inode]; first != "" {
			return os.Link(first, target)
		}
		linked[inode] = target
		return copyFile(path, target, info)
	})
}

func copyFile(from, to string, info fs.FileInfo) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(to, data, info.Mode().Perm()); err != nil {
		return err
	}
	at := unix.NsecToTimespec(info.ModTime().UnixNano())
	return unix.UtimesNanoAt(unix.AT_FDCWD, to, []unix.Timespec{at, at}, 0)
}
