// SPDX-License-Identifier: Apache-2.0

package main

import (
	"debug/buildinfo"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

const source = "https://github.com/kmm-node/kmmd"

// image is what one of our images is like.
type image struct {
	name, title, description string
	user                     string // numbers
}

// index is an image for all architectures.
type index struct {
	name, tag string
	index     v1.ImageIndex
	platforms []platform
}

// platform is one of an index.
type platform struct {
	arch  string
	image v1.Image
	sbom  []byte
}

// program is a built program and what it says of itself.
type program struct {
	path     string
	info     *debug.BuildInfo
	settings map[string]string
	created  time.Time // of the commit
}

func readProgram(path string) (*program, error) {
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	p := &program{path: path, info: info, settings: map[string]string{}}
	for _, s := range info.Settings {
		p.settings[s.Key] = s.Value
	}
	if p.created, err = time.Parse(time.RFC3339, p.settings["vcs.time"]); err != nil {
		return nil, fmt.Errorf("%s does not say which commit it is: build it in a git work tree with -buildvcs=true: %w", path, err)
	}
	if p.settings["GOOS"] != "linux" || p.settings["GOARCH"] != filepath.Base(filepath.Dir(path)) {
		return nil, fmt.Errorf("%s is for %s/%s", path, p.settings["GOOS"], p.settings["GOARCH"])
	}
	if p.settings["CGO_ENABLED"] != "0" {
		return nil, fmt.Errorf("%s was built with cgo: in an image of its own it finds no libraries", path)
	}
	return p, nil
}

// make makes the index of the programs, one for each architecture.
func (i image) make(files []string) (*index, error) {
	slices.Sort(files)
	made := &index{name: i.name, index: mutate.IndexMediaType(empty.Index, types.OCIImageIndex)}
	var first *program
	for _, file := range files {
		p, err := readProgram(file)
		if err != nil {
			return nil, err
		}
		if first == nil {
			first = p
		} else if first.info.Main.Version != p.info.Main.Version || first.settings["vcs.revision"] != p.settings["vcs.revision"] {
			return nil, fmt.Errorf("%s and %s are of different commits: build both again", first.path, p.path)
		}
		img, err := i.platform(p)
		if err != nil {
			return nil, err
		}
		bill, err := i.sbom(p, img)
		if err != nil {
			return nil, err
		}
		arch := p.settings["GOARCH"]
		made.platforms = append(made.platforms, platform{arch: arch, image: img, sbom: bill})
		made.index = mutate.AppendManifests(made.index, mutate.IndexAddendum{
			Add: img, Descriptor: v1.Descriptor{MediaType: types.OCIManifestSchema1, Platform: &v1.Platform{OS: "linux", Architecture: arch}},
		})
	}
	// A tag has no +, as of v1.2.3+dirty.
	made.tag = strings.ReplaceAll(first.info.Main.Version, "+", "_")
	made.index = mutate.Annotations(made.index, i.labels(first)).(v1.ImageIndex)
	return made, nil
}

// labels are those of the OCI image specification, annotations.md.
func (i image) labels(p *program) map[string]string {
	return map[string]string{
		"org.opencontainers.image.title":       i.title,
		"org.opencontainers.image.description": i.description,
		"org.opencontainers.image.created":     p.created.Format(time.RFC3339),
		"org.opencontainers.image.version":     p.info.Main.Version,
		"org.opencontainers.image.revision":    p.settings["vcs.revision"],
		"org.opencontainers.image.source":      source,
		"org.opencontainers.image.licenses":    "Apache-2.0",
	}
}

// platform makes the image of one program.
func (i image) platform(p *program) (v1.Image, error) {
	content, err := os.ReadFile(p.path)
	if err != nil {
		return nil, fmt.Errorf("read program: %w", err)
	}
	pem, err := roots()
	if err != nil {
		return nil, err
	}
	bin := "usr/bin/" + i.name
	type layer struct {
		why     string
		entries []entry
	}
	// What changes least comes first.
	base := layer{"directories, certificates of public authorities", []entry{
		{path: "etc/", mode: 0o755}, {path: "etc/ssl/", mode: 0o755}, {path: "etc/ssl/certs/", mode: 0o755},
		{path: rootsFile, mode: 0o644, content: pem}, {path: "tmp/", mode: 0o1777},
	}}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err = mutate.ConfigFile(img, &v1.ConfigFile{
		OS: "linux", Architecture: p.settings["GOARCH"], Created: v1.Time{Time: p.created},
		Config: v1.Config{
			User: i.user, Entrypoint: []string{"/" + bin}, Env: []string{"PATH=/usr/bin"}, WorkingDir: "/", Labels: i.labels(p),
		},
	})
	if err != nil {
		return nil, fmt.Errorf("make configuration: %w", err)
	}
	for _, l := range []layer{base, {i.name, []entry{
		{path: "usr/", mode: 0o755}, {path: "usr/bin/", mode: 0o755}, {path: bin, mode: 0o755, content: content},
	}}} {
		made, err := newLayer(l.entries)
		if err != nil {
			return nil, err
		}
		img, err = mutate.Append(img, mutate.Addendum{
			Layer: made, MediaType: types.OCILayer, History: v1.History{Created: v1.Time{Time: p.created}, CreatedBy: l.why},
		})
		if err != nil {
			return nil, fmt.Errorf("add layer: %w", err)
		}
	}
	return mutate.Annotations(img, i.labels(p)).(v1.Image), nil
}
