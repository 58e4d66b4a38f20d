// SPDX-License-Identifier: Apache-2.0

// Command licences looks at the licence of everything that is linked into the programs it is given as packages of the module in
// the current directory, and fails for one that is missing, not known, or not among those that may be in what ships.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/google/licensecheck"
)

// allowed may be linked into a program under the Apache licence, and shipped without source.
var allowed = []string{"Apache-2.0", "MIT", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MPL-2.0", "CC0-1.0", "Unlicense", "0BSD"}

// choice is what stands at the head of a text that may be taken under either of several licences.
var choice = regexp.MustCompile(`SPDX-License-Identifier: (\S+(?: OR \S+)+)`)

// enough is how much of a file has to be text of licences, in percent: the rest is names and years.
const enough = 75

var (
	licenceFile = regexp.MustCompile(`(?i)^(licen[cs]e|copying|unlicense)([-._].*)?$`)
	notOfCode   = regexp.MustCompile(`\.(docs|go)$`) // of what is written about it; a program by that name
)

// pkg is what `go list -deps -json` says of a package.
type pkg struct {
	ImportPath, Dir string
	Standard        bool
	Module          *struct {
		Path, Version, Dir string
		Main               bool
	}
}

func main() {
	packages, err := list(os.Args[1:])
	if err == nil {
		var modules int
		modules, err = check(packages)
		if err == nil {
			fmt.Printf("licences of %d modules: all may be shipped\n", modules)
		}
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "licences: %v\n", err)
		os.Exit(1)
	}
}

func list(programs []string) (out []pkg, err error) {
	cmd := exec.Command("go", append([]string{"list", "-deps", "-json=ImportPath,Dir,Standard,Module"}, programs...)...)
	cmd.Stderr = os.Stderr
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	for d := json.NewDecoder(pipe); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, cmd.Wait()
}

// check looks for each package at the licences of its directory and of those above it, up to its module's.
func check(packages []pkg) (modules int, err error) {
	seen := map[string]bool{}
	var errs []error
	for _, p := range packages {
		if p.Standard || p.Module == nil || p.Module.Main {
			continue
		}
		found := 0
		for dir := p.Dir; ; dir = filepath.Dir(dir) {
			n, err := look(dir, p.Module.Path, seen)
			found += n
			errs = append(errs, err)
			if dir == p.Module.Dir || len(dir) < len(p.Module.Dir) {
				break
			}
		}
		if found == 0 {
			errs = append(errs, fmt.Errorf("%s %s: no licence", p.Module.Path, p.Module.Version))
		}
		if !seen[p.Module.Path+"@"] {
			seen[p.Module.Path+"@"] = true
			modules++
		}
	}
	if modules == 0 {
		errs = append(errs, errors.New("no module was found: which programs?"))
	}
	return modules, errors.Join(errs...)
}

// look reads the licences of a directory, each once.
func look(dir, module string, seen map[string]bool) (found int, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, err
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if e.IsDir() || !licenceFile.MatchString(e.Name()) || notOfCode.MatchString(e.Name()) {
			continue
		}
		found++
		if seen[path] {
			continue
		}
		seen[path] = true
		text, readErr := os.ReadFile(path)
		err = errors.Join(err, readErr)
		if why := judge(text); why != "" {
			err = errors.Join(err, fmt.Errorf("%s: %s: %s", module, path, why))
		}
	}
	return found, err
}

// judge says what is wrong with the text of a licence, "" for nothing.
func judge(text []byte) string {
	if either := choice.FindSubmatch(text[:min(len(text), 1024)]); either != nil {
		if slices.ContainsFunc(strings.Split(string(either[1]), " OR "), func(id string) bool { return slices.Contains(allowed, id) }) {
			return ""
		}
		return string(either[1]) + ": none of these is among those that may be shipped"
	}
	cover := licensecheck.Scan(text)
	var ids []string
	for _, m := range cover.Match {
		ids = append(ids, m.ID)
	}
	slices.Sort(ids)
	ids = slices.Compact(ids)
	if len(ids) == 0 || cover.Percent < enough {
		return fmt.Sprintf("of this text %.0f %% are a known licence (%s)", cover.Percent, strings.Join(ids, ", "))
	}
	for _, id := range ids {
		if !slices.Contains(allowed, id) {
			return id + " is not among those that may be shipped"
		}
	}
	return ""
}
