// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"go.yaml.in/yaml/v3"

	"github.com/kmm-node/kmmd/pkg/images/credentials"
	"github.com/kmm-node/kmmd/pkg/spec"
)

// filePart is a file as it is.
func filePart(path string) collect {
	return func(_ context.Context, w io.Writer) error {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.Copy(w, f)
		return err
	}
}

// documentPart is a file of fields as JSON, which is how a bundle finds what is
// secret by its place. One that can not be read as such is left out: nobody knows what of it is secret.
func documentPart(path string) collect {
	return func(_ context.Context, w io.Writer) error {
		doc, err := decodeFile(path)
		if err != nil {
			return err
		}
		return writeJSON(w, doc) // what is secret goes as in every .json
	}
}

// decodeFile reads TOML (also .conf), JSON, or YAML, of which all documents make
// a list.
func decodeFile(path string) (any, error) {
	data, err := readSome(path)
	if err != nil {
		return nil, err
	}
	var doc any
	switch strings.ToLower(filepath.Ext(path)) {
	case ".toml", ".conf":
		var table map[string]any
		err = toml.Unmarshal(data, &table)
		doc = table
	case ".json":
		err = json.Unmarshal(data, &doc)
	default:
		var docs []any
		for d := yaml.NewDecoder(strings.NewReader(string(data))); err == nil; {
			var one any
			if err = d.Decode(&one); err == nil {
				docs = append(docs, one)
			}
		}
		doc = docs
		if errors.Is(err, io.EOF) {
			err = nil
		}
	}
	if err != nil {
		// The decoder's own words may quote the file.
		return nil, fmt.Errorf("%s is left out: it can not be read as what its name says, so what is secret in it is not known; look at it by hand", path)
	}
	return doc, nil
}

// readSome reads a file that is not larger than any document.
func readSome(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > 8*spec.MaxDocumentSize {
		return nil, fmt.Errorf("%s is left out: it is no regular file, or has more than %d bytes", path, 8*spec.MaxDocumentSize)
	}
	return os.ReadFile(path)
}

// credentials tells for which registries there are credentials, and which.
func (b *collector) credentials(_ context.Context, w io.Writer) error {
	out := &printer{w: w}
	var errs []error
	for _, name := range credentials.DefaultFiles() {
		info, err := os.Stat(b.at(name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		out.line("%s, mode %s", name, info.Mode())
		doc, err := decodeFile(b.at(name))
		if err != nil {
			errs = append(errs, err)
			continue
		}
		table, _ := doc.(map[string]any)
		auths, _ := table["auths"].(map[string]any)
		for _, host := range slices.Sorted(maps.Keys(auths)) {
			out.line("  for %s", host)
		}
	}
	k, err := credentials.Load(credentials.Options{Root: b.c.HostRoot})
	if err != nil {
		errs = append(errs, errors.New("a file with credentials can not be read: kmmd says which one at each pull"))
	}
	for _, warning := range k.Warnings() {
		out.line("%s", warning)
	}
	return errors.Join(append(errs, out.err)...)
}
