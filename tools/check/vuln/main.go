// SPDX-License-Identifier: Apache-2.0

// Command vuln looks for known vulnerabilities in programs: of the symbols that the linker put into them, with govulncheck,
// and a directory of reports (https://go.dev/security/vuln/database) for which no network is needed. It fails for those in
// modules that the program is made of. Those in Go's standard library are told, and fail with -std: they go with another Go, not with a
// change here.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"golang.org/x/vuln/scan"
)

func main() {
	db := flag.String("db", "", "directory with OSV reports")
	std := flag.Bool("std", false, "fail for the standard library too")
	flag.Parse()
	bad := false
	for _, program := range flag.Args() {
		found, err := look(context.Background(), *db, program)
		if err != nil {
			fmt.Fprintf(os.Stderr, "vuln: %s: %v\n", program, err)
			os.Exit(2)
		}
		bad = tell(os.Stdout, program, found, *std) || bad
	}
	if bad || flag.NArg() == 0 {
		os.Exit(1)
	}
}

// message is one of govulncheck's -format=json stream; the fields that are read here.
type message struct {
	OSV *struct {
		ID, Summary string
	} `json:"osv"`
	Finding *struct {
		OSV   string `json:"osv"`
		Fixed string `json:"fixed_version"`
		Trace []struct {
			Module, Version, Package, Function string
		} `json:"trace"`
	} `json:"finding"`
	Config *struct {
		DB string `json:"db"`
	} `json:"config"`
}

// finding is a vulnerability of which the program has a symbol.
type finding struct{ id, module, version, fixed, summary string }

func look(ctx context.Context, db, program string) ([]finding, error) {
	if entries, err := os.ReadDir(db); err != nil || len(entries) < 1000 {
		return nil, errors.Join(err, fmt.Errorf("%s has no reports: %d files", db, len(entries)))
	}
	var out bytes.Buffer
	cmd := scan.Command(ctx, "-db=file://"+db, "-mode=binary", "-format=json", program)
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	if err := cmd.Wait(); err != nil {
		return nil, err
	}
	return read(&out)
}

// read takes the findings out of the stream, each once.
func read(r io.Reader) ([]finding, error) {
	summaries, found := map[string]string{}, map[finding]bool{}
	asked := false
	for d := json.NewDecoder(r); ; {
		var m message
		err := d.Decode(&m)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		asked = asked || m.Config != nil && m.Config.DB != ""
		if m.OSV != nil {
			summaries[m.OSV.ID] = m.OSV.Summary
		}
		if f := m.Finding; f != nil && len(f.Trace) > 0 && f.Trace[0].Function != "" {
			found[finding{id: f.OSV, module: f.Trace[0].Module, version: f.Trace[0].Version, fixed: f.Fixed}] = true
		}
	}
	if !asked {
		return nil, errors.New("govulncheck says nothing of a database")
	}
	list := slices.Collect(maps.Keys(found))
	for i := range list {
		list[i].summary = summaries[list[i].id]
	}
	slices.SortFunc(list, func(a, b finding) int { return strings.Compare(a.module+a.id, b.module+b.id) })
	return list, nil
}

// tell prints what was found, and reports whether it is to be mended.
func tell(w io.Writer, program string, found []finding, std bool) (bad bool) {
	for _, f := range found {
		word := "vulnerable"
		if f.module == "stdlib" && !std {
			word = "warning"
		} else {
			bad = true
		}
		fmt.Fprintf(w, "%s: %s: %s %s, %s: %s\n", program, word, f.module, f.version, repaired(f.fixed), f.id+" "+f.summary)
	}
	if len(found) == 0 {
		fmt.Fprintf(w, "%s: no known vulnerability\n", program)
	}
	return bad
}

func repaired(version string) string {
	if version == "" {
		return "not repaired"
	}
	return "repaired in " + version
}
