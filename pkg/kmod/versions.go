// SPDX-License-Identifier: Apache-2.0

package kmod

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
)

// Sizes in the section __versions, an array of struct modversion_info
// (include/linux/module.h, 64-bit): an unsigned long and a name.
const (
	versionSize   = 64
	versionCRC    = 8
	versionExtCRC = 4
)

// readVersions reads the CRCs that a module file of any compression was built
// against, as in Symbols.Versions; nil when the file is not in-tree or not for
// this release, and so tells nothing about this kernel.
func readVersions(path, release string) (map[string]uint32, error) {
	var versions map[string]uint32
	err := withPlain(path, func(r io.ReaderAt) error {
		f, err := openELF(r)
		if err != nil {
			return fmt.Errorf("parse %s: %w", path, err)
		}
		info, err := parseInfo(path, f)
		if err != nil {
			return fmt.Errorf("parse %s: %w", path, err)
		}
		if !info.InTree || info.Release() != release {
			return nil
		}
		versions, err = parseVersions(f)
		return err
	})
	return versions, err
}

// parseVersions reads the section __versions and the newer pair
// __version_ext_crcs and __version_ext_names, which has room for names longer
// than 55 bytes (Linux 6.14, CONFIG_EXTENDED_MODVERSIONS). A file may have both;
// the kernel then looks at the newer pair only (kernel/module/version.c).
func parseVersions(f *elfFile) (map[string]uint32, error) {
	data, err := f.findData("__versions")
	if err != nil {
		return nil, err
	}
	crcs, err := f.findData("__version_ext_crcs")
	if err != nil {
		return nil, err
	}
	names, err := f.findData("__version_ext_names")
	if err != nil {
		return nil, err
	}
	if data == nil && crcs == nil {
		return nil, nil
	}
	versions := make(map[string]uint32, len(data)/versionSize+len(crcs)/versionExtCRC)
	if crcs == nil {
		for ; len(data) >= versionSize; data = data[versionSize:] {
			addVersion(versions, data[versionCRC:versionSize], binary.LittleEndian.Uint32(data))
		}
		return versions, nil
	}
	for ; len(crcs) >= versionExtCRC; crcs = crcs[versionExtCRC:] {
		name, rest, ok := bytes.Cut(names, []byte{0})
		if !ok {
			return nil, fmt.Errorf("%w: fewer names than CRCs in __version_ext_names", ErrFormat)
		}
		addVersion(versions, name, binary.LittleEndian.Uint32(crcs))
		names = rest
	}
	return versions, nil
}

// addVersion takes the first of several of the same name, as the kernel does.
func addVersion(versions map[string]uint32, name []byte, crc uint32) {
	name, _, _ = bytes.Cut(name, []byte{0})
	if _, ok := versions[string(name)]; !ok {
		versions[string(name)] = crc
	}
}
