// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
)

// What the images are made of. All of it is real: packages of Debian, and the
// kernel of the lab with its modules.

// basePackages are the system an image starts from.
var basePackages = []string{
	"apt", "base-files", "bash", "bsdutils", "ca-certificates", "coreutils", "curl", "dash", "debianutils", "diffutils", "dpkg",
	"findutils", "gpg", "gpgv", "grep", "gzip", "hostname", "init-system-helpers", "iproute2", "kmod", "libapt-pkg6.0",
	"libaudit1", "libblkid1", "libbz2-1.0", "libc-bin", "libc6", "libcap2", "libcrypt1", "libcurl4", "libdb5.3", "libelf1", "libexpat1",
	"libffi8", "libgcrypt20", "libgmp10", "libgnutls30", "libidn2-0", "libkmod2", "liblz4-1", "liblzma5", "libmount1",
	"libncursesw6", "libnettle8", "libp11-kit0", "libpam-modules", "libpam0g", "libpcre2-8-0", "libreadline8", "libseccomp2", "libselinux1",
	"libsqlite3-0", "libssl3", "libstdc++6", "libsystemd0", "libsystemd-shared", "libtinfo6", "libudev1", "libunistring2", "libxml2",
	"libzstd1", "login", "mawk", "mount", "ncurses-bin", "openssl", "passwd", "perl-base", "procps", "sed",
	"systemd", "tar", "tzdata", "util-linux", "xz-utils", "zlib1g",
}

// systemPackages are what large images have besides, in their lowest layer.
var systemPackages = []string{
	"libicu72", "libperl5.36", "libpython3.11-minimal", "libpython3.11-stdlib", "locales", "perl", "perl-modules-5.36",
	"python3.11", "python3.11-minimal", "vim-runtime",
}

// toolPackages are the compilers of a driver toolkit.
var toolPackages = []string{
	"binutils-x86-64-linux-gnu", "clang-14", "cmake", "cpp-12", "elfutils", "g++-12", "gcc-12", "gdb", "golang-1.19-src", "golang-1.19-go",
	"libbinutils", "libc6-dev", "libclang-common-14-dev", "libclang-cpp14", "libdw1", "libgcc-12-dev", "libllvm14",
	"libstdc++-12-dev", "linux-libc-dev", "llvm-14", "make",
}

const (
	modulesDir  = "opt/lib/modules" // in the images, as KMM has it
	firmwareDir = "firmware"
)

// The modules of the two images, as directories of the kernel's.
var (
	manyModules = []string{"kernel/drivers", "kernel/lib", "kernel/block"}
	fewModules  = []string{"kernel/drivers/infiniband", "kernel/drivers/comedi", "kernel/drivers/block"}
)

// firmwareFile is how large each made-up firmware file is, firmwareTotal all of
// them with those that modules ask for.
const (
	firmwareFile  = 600 << 10
	firmwareTotal = 21_000_000
)

// content makes directory trees that become layers.
type content struct {
	work    string // may be wiped
	kernel  string // the lab's root of one kernel
	release string
}

// unpack puts packages, downloaded unless that was done before, into a new
// directory called name.
func (c *content) unpack(name string, packages []string) (string, error) {
	debs, out := filepath.Join(c.work, "debs"), filepath.Join(c.work, name)
	if err := os.MkdirAll(debs, 0o755); err != nil {
		return "", err
	}
	if err := os.RemoveAll(out); err != nil {
		return "", err
	}
	var missing []string
	for _, p := range packages {
		if found, _ := filepath.Glob(filepath.Join(debs, p+"_*.deb")); len(found) == 0 {
			missing = append(missing, p)
		}
	}
	if len(missing) > 0 {
		get := append([]string{"-qq", "-o", "APT::Sandbox::User=root", "download"}, missing...)
		if err := runIn(debs, "apt-get", get...); err != nil {
			return "", err
		}
	}
	for _, p := range packages {
		found, err := filepath.Glob(filepath.Join(debs, p+"_*.deb"))
		if err != nil || len(found) != 1 {
			return "", fmt.Errorf("package %s: want one file in %s, there are %q", p, debs, found)
		}
		if err := runIn(c.work, "dpkg-deb", "-x", found[0], out); err != nil {
			return "", err
		}
	}
	return out, nil
}

// addHeaders adds the kernel's headers, which is what a toolkit is about.
func (c *content) addHeaders(out string) error {
	if err := os.MkdirAll(filepath.Join(out, "usr"), 0o755); err != nil {
		return err
	}
	for _, d := range []string{"src", "lib"} {
		if err := runIn(c.kernel, "cp", "-a", "usr/"+d, filepath.Join(out, "usr")); err != nil {
			return err
		}
	}
	return nil
}

// modules makes a directory with some of the kernel's modules, and indexes them.
func (c *content) modules(name string, dirs []string) (string, error) {
	out := filepath.Join(c.work, name)
	if err := os.RemoveAll(out); err != nil {
		return "", err
	}
	from, to := filepath.Join(c.kernel, "lib/modules", c.release), filepath.Join(out, modulesDir, c.release)
	for _, d := range dirs {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(to, d)), 0o755); err != nil {
			return "", err
		}
		if err := runIn(from, "cp", "-a", d, filepath.Join(to, d)); err != nil {
			return "", err
		}
	}
	return out, runIn(out, "depmod", "-b", filepath.Join(out, "opt"), c.release)
}

// firmware makes a directory with a file for each name that the modules below
// tree ask for, and more. Debian's main archive has no firmware to speak of: the
// bytes are those of the compressed kernel, which compress as badly.
func (c *content) firmware(name, tree string) (string, error) {
	out := filepath.Join(c.work, name)
	if err := os.RemoveAll(out); err != nil {
		return "", err
	}
	names, err := firmwareOf(tree)
	if err != nil {
		return "", err
	}
	for i := 0; len(names)*firmwareFile < firmwareTotal; i++ {
		names = append(names, fmt.Sprintf("vendor/fw-%02d.bin", i))
	}
	source, err := filepath.Glob(filepath.Join(filepath.Dir(c.kernel), "*", "boot", "vmlinuz-*"))
	if err != nil {
		return "", err
	}
	sort.Strings(source)
	var data []byte
	for _, s := range source {
		b, err := os.ReadFile(s)
		if err != nil {
			return "", err
		}
		data = append(data, b...)
	}
	if len(data) < len(names)*firmwareFile {
		return "", fmt.Errorf("%d bytes in %q are too few for %d firmware files", len(data), source, len(names))
	}
	for _, n := range names {
		path := filepath.Join(out, firmwareDir, n)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return "", err
		}
		if err := os.WriteFile(path, data[:firmwareFile], 0o644); err != nil {
			return "", err
		}
		data = data[firmwareFile:]
	}
	return out, nil
}

// firmwareOf are the firmware files that the modules below dir ask for.
func firmwareOf(dir string) ([]string, error) {
	find := exec.Command("find", dir, "-name", "*.ko", "-exec", "modinfo", "-F", "firmware", "{}", "+")
	find.Stderr = os.Stderr
	b, err := find.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", find, err)
	}
	names := strings.Fields(string(b))
	sort.Strings(names)
	return names, nil
}

func runIn(dir, name string, args ...string) error {
	cmd := exec.Command(name, args...)
	var said bytes.Buffer
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &said, &said
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w\n%s", cmd, err, said.String())
	}
	return nil
}
