// SPDX-License-Identifier: Apache-2.0

// Command hunt looks for secrets wherever a program in a container can look: in
// each file, and of each process the environment, the arguments, the mounts, open
// files and its own idea of the file system. Tests only.
//
//	hunt [-skip DIR] NAME=HEX...
//
// HEX is the text to look for, in hexadecimal, so that it is not found in our own
// arguments. It prints lines "found NAME in PATH", and how much it has read.
package main

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// largest is the size of a file that is looked into.
const largest = 64 << 20

type hunter struct {
	skip             string
	markers          map[string][]byte
	files, processes int
	roots            []os.FileInfo
}

func main() {
	h := hunter{markers: map[string][]byte{}}
	flag.StringVar(&h.skip, "skip", "/proc", "a directory that is not looked into, below each root")
	flag.Parse()
	for _, arg := range flag.Args() {
		name, text, _ := strings.Cut(arg, "=")
		marker, err := hex.DecodeString(text)
		if err != nil || len(marker) == 0 {
			fmt.Fprintf(os.Stderr, "hunt: %s: what does it look like, in hexadecimal?\n", name)
			os.Exit(2)
		}
		h.markers[name] = marker
	}
	h.root("/")
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		panic(err) // it is a pattern
	}
	for _, p := range processes {
		h.process(p)
	}
	fmt.Printf("looked at %d files and %d processes\n", h.files, h.processes)
}

// process looks at all that /proc shows of one.
func (h *hunter) process(dir string) {
	h.processes++
	for _, name := range []string{"environ", "cmdline", "mountinfo"} {
		h.file(filepath.Join(dir, name))
	}
	open, _ := filepath.Glob(filepath.Join(dir, "fd", "*"))
	for _, fd := range open {
		if info, err := os.Stat(fd); err == nil && info.Mode().IsRegular() {
			h.file(fd)
		}
	}
	h.root(filepath.Join(dir, "root") + "/")
	h.root(filepath.Join(dir, "cwd") + "/")
}

// root looks at all files below one, but those of /proc and /sys. One that was
// looked at already is passed over.
func (h *hunter) root(root string) {
	info, err := os.Stat(root)
	if err != nil {
		return // not ours to see
	}
	for _, known := range h.roots {
		if os.SameFile(known, info) {
			return
		}
	}
	h.roots = append(h.roots, info)
	filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error { //nolint:errcheck // what can not be read has not been found
		switch rest := "/" + strings.TrimPrefix(path, root); {
		case err != nil:
			return nil
		case entry.IsDir() && (rest == "/proc" || rest == "/sys" || rest == h.skip):
			return fs.SkipDir
		case entry.Type().IsRegular():
			h.file(path)
		}
		return nil
	})
}

func (h *hunter) file(path string) {
	if info, err := os.Stat(path); err != nil || info.Size() > largest {
		return
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return
	}
	h.files++
	for name, marker := range h.markers {
		if bytes.Contains(data, marker) {
			fmt.Printf("found %s in %s\n", name, path)
		}
	}
}
