// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"runtime/debug"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// spdxType is the media type of a bill of materials: SPDX 2.3 as JSON.
const spdxType = "application/spdx+json"

// document is the part of SPDX 2.3 that we write (spdx.github.io, the chapters
// "Document creation information", "Package information", "Relationships").
type document struct {
	Version       string         `json:"spdxVersion"`
	DataLicense   string         `json:"dataLicense"`
	ID            string         `json:"SPDXID"`
	Name          string         `json:"name"`
	Namespace     string         `json:"documentNamespace"`
	Creation      creation       `json:"creationInfo"`
	Packages      []spdxPackage  `json:"packages"`
	Relationships []relationship `json:"relationships"`
}

type creation struct {
	Created  string   `json:"created"`
	Creators []string `json:"creators"`
}

type spdxPackage struct {
	ID            string     `json:"SPDXID"`
	Name          string     `json:"name"`
	Version       string     `json:"versionInfo,omitempty"`
	Purpose       string     `json:"primaryPackagePurpose"`
	Download      string     `json:"downloadLocation"`
	FilesAnalyzed bool       `json:"filesAnalyzed"`
	Checksums     []checksum `json:"checksums,omitempty"`
	SourceInfo    string     `json:"sourceInfo,omitempty"` // the line of go.sum
	Concluded     string     `json:"licenseConcluded"`
	Declared      string     `json:"licenseDeclared"`
	Copyright     string     `json:"copyrightText"`
	External      []external `json:"externalRefs,omitempty"`
}

type checksum struct {
	Algorithm string `json:"algorithm"`
	Value     string `json:"checksumValue"`
}

type external struct {
	Category string `json:"referenceCategory"`
	Type     string `json:"referenceType"`
	Locator  string `json:"referenceLocator"`
}

type relationship struct {
	Element string `json:"spdxElementId"`
	Type    string `json:"relationshipType"`
	Related string `json:"relatedSpdxElement"`
}

const (
	documentID = "SPDXRef-DOCUMENT"
	imageID    = "SPDXRef-image"
	programID  = "SPDXRef-program"
	unsaid     = "NOASSERTION"
)

// sbom is the bill of materials of one platform: the image has the program, and
// the program the modules and the standard library it was built from.
func (i image) sbom(p *program, img v1.Image) ([]byte, error) {
	digest, err := img.Digest()
	if err != nil {
		return nil, fmt.Errorf("make bill of materials: %w", err)
	}
	content, err := os.ReadFile(p.path)
	if err != nil {
		return nil, fmt.Errorf("make bill of materials: %w", err)
	}
	sum := sha256.Sum256(content)
	name := i.name + "-linux-" + p.settings["GOARCH"]
	d := document{
		Version: "SPDX-2.3", DataLicense: "CC0-1.0", ID: documentID, Name: name,
		Namespace: source + "/sbom/" + name + "-" + digest.Hex,
		Creation:  creation{p.created.Format(time.RFC3339), []string{"Organization: kmmd", "Tool: kmmd-tools-release"}},
	}
	image := newPackage(imageID, i.name, p.info.Main.Version, "CONTAINER")
	image.Checksums = []checksum{{"SHA256", digest.Hex}}
	d.add(image, documentID, "DESCRIBES")
	program := newPackage(programID, "/usr/bin/"+i.name, p.info.Main.Version, "APPLICATION")
	program.Checksums = []checksum{{"SHA256", hex.EncodeToString(sum[:])}}
	d.add(program, imageID, "CONTAINS")
	main := goPackage(&p.info.Main)
	main.Declared = "Apache-2.0"
	d.add(main, programID, "GENERATED_FROM")
	d.add(goPackage(&debug.Module{Path: "stdlib", Version: strings.TrimPrefix(p.info.GoVersion, "go")}), programID, "STATIC_LINK")
	for _, m := range p.info.Deps {
		d.add(goPackage(m), programID, "STATIC_LINK")
	}
	m, err := ofThisProgram(rootsModule)
	if err != nil {
		return nil, err
	}
	d.add(goPackage(m), imageID, "CONTAINS")
	b, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("make bill of materials: %w", err)
	}
	return append(b, '\n'), nil
}

func (d *document) add(p spdxPackage, of, as string) {
	d.Packages = append(d.Packages, p)
	d.Relationships = append(d.Relationships, relationship{of, as, p.ID})
}

func newPackage(id, name, version, purpose string) spdxPackage {
	return spdxPackage{
		ID: id, Name: name, Version: version, Purpose: purpose,
		Download: unsaid, Concluded: unsaid, Declared: unsaid, Copyright: unsaid,
	}
}

// notInID are the characters that an identifier of SPDX can not have.
var notInID = regexp.MustCompile(`[^A-Za-z0-9.-]+`)

// goPackage is a Go module; of one that go.mod replaces, what it is replaced by.
func goPackage(m *debug.Module) spdxPackage {
	if m.Replace != nil {
		m = m.Replace
	}
	p := newPackage("SPDXRef-go-"+notInID.ReplaceAllString(m.Path, "-"), m.Path, m.Version, "LIBRARY")
	p.SourceInfo = m.Sum
	p.External = []external{{"PACKAGE-MANAGER", "purl", "pkg:golang/" + m.Path + "@" + strings.ReplaceAll(m.Version, "+", "%2B")}}
	return p
}

// ofThisProgram finds a module that this very program was built from.
func ofThisProgram(path string) (*debug.Module, error) {
	info, ok := debug.ReadBuildInfo()
	if ok {
		for _, m := range info.Deps {
			if m.Path == path {
				return m, nil
			}
		}
	}
	return nil, fmt.Errorf("make bill of materials: this program does not know its version of %s", path)
}
