// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/pelletier/go-toml/v2"

	"github.com/kmm-node/kmmd/pkg/images"
	"github.com/kmm-node/kmmd/pkg/spec"
)

const defaultConfigFile = "/etc/kmmd/kmmd.toml"

// duration is a time.Duration written as "30s" in TOML. It is a struct, so
// that a plain number is refused: of which unit would it be?
type duration struct{ time.Duration }

// UnmarshalText reads what time.ParseDuration reads; nothing below zero.
func (d *duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err == nil && v <= 0 {
		err = fmt.Errorf("%q: a duration above zero is needed", text)
	}
	d.Duration = v
	return err
}

// MarshalText writes what UnmarshalText reads.
func (d duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// config is kmmd.toml. Every key may be left out.
type config struct {
	ModulesDir    string   `toml:"modules_dir"`    // Module documents
	StateDir      string   `toml:"state_dir"`      // images and the firmware manifest; survives a reboot
	RunDir        string   `toml:"run_dir"`        // ledger, lock, status; does not
	FirmwareDir   string   `toml:"firmware_dir"`   // as the kernel sees it
	HostRoot      string   `toml:"host_root"`      // where the node's root is mounted
	Listen        string   `toml:"listen"`         // /metrics, /livez, /readyz; "" serves nothing
	LoadTimeout   duration `toml:"load_timeout"`   // for one finit_module
	UnloadTimeout duration `toml:"unload_timeout"` // for one delete_module
	Resync        duration `toml:"resync"`         // look at everything without a hint
	StartWait     duration `toml:"start_wait"`     // how long systemd waits for the first look

	AllowInUse     []string `toml:"allow_in_use"`    // the node's policy: network
	NetworkTimeout duration `toml:"network_timeout"` // for interfaces to come back

	ImageQuota      size     `toml:"image_quota"`       // of the image store
	ImageKeepUnused duration `toml:"image_keep_unused"` // images that nothing needs
	Firmware        string   `toml:"firmware"`          // all or declared
	Prestage        bool     `toml:"prestage"`          // images for installed kernels that do not run
	Policy          policy   `toml:"policy"`
	Cluster         joins    `toml:"cluster"`
}

// policy is what this node allows, whatever the documents say.
type policy struct {
	AllowedRepositories []string `toml:"allowed_repositories"` // prefixes; none allows all
	RequireDigest       bool     `toml:"require_digest"`
	SignatureKeys       []string `toml:"signature_keys"` // PEM files; none requires no signature
	NeverLoad           []string `toml:"never_load"`     // module names
	NeverRemove         []string `toml:"never_remove"`
}

// size is a number of bytes written as "2GiB" in TOML; without a unit it is
// refused, as a duration is.
type size struct{ Bytes int64 }

// UnmarshalText reads a number with a unit: B, KB, MB, GB, KiB, MiB, GiB.
func (s *size) UnmarshalText(text []byte) error {
	n, err := humanize.ParseBytes(string(text))
	unit := strings.TrimLeft(string(text), "0123456789. ")
	if err != nil || unit == "" || n == 0 || n > math.MaxInt64 {
		return fmt.Errorf("%q: a size above zero is needed, such as 2GiB", text)
	}
	s.Bytes = int64(n)
	return nil
}

// MarshalText writes what UnmarshalText reads.
func (s size) MarshalText() ([]byte, error) { return fmt.Appendf(nil, "%d B", s.Bytes), nil }

// What the key firmware may be.
const (
	firmwareAll      = "all"      // look into every layer that may have more of it
	firmwareDeclared = "declared" // what the modules declare is enough
)

func defaultConfig() config {
	return config{
		ModulesDir: "/etc/kmmd/modules.d", StateDir: "/var/lib/kmmd", RunDir: "/run/kmmd",
		FirmwareDir: "/var/lib/firmware", HostRoot: "/", Listen: "127.0.0.1:9808",
		NetworkTimeout: duration{30 * time.Second},
		ImageQuota:     size{images.DefaultQuota}, ImageKeepUnused: duration{7 * 24 * time.Hour}, Firmware: firmwareAll,
		LoadTimeout: duration{2 * time.Minute}, UnloadTimeout: duration{time.Minute}, Resync: duration{5 * time.Minute},
		StartWait: duration{time.Minute},
	}
}

// readConfig reads a configuration file over the defaults. The default file
// may be missing, one that was named may not.
func readConfig(path string) (config, error) {
	c := defaultConfig()
	named := path != ""
	if !named {
		path = defaultConfigFile
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) && !named {
		return c, nil
	}
	if err != nil {
		return c, usageError{fmt.Errorf("read configuration: %w", err)}
	}
	defer f.Close()
	err = toml.NewDecoder(f).DisallowUnknownFields().Decode(&c)
	var strict *toml.StrictMissingError
	var decode *toml.DecodeError
	switch {
	case errors.As(err, &strict):
		var lines []string
		for i := range strict.Errors {
			row, _ := strict.Errors[i].Position()
			lines = append(lines, fmt.Sprintf("%s:%d: %s: unknown key", path, row, strings.Join(strict.Errors[i].Key(), ".")))
		}
		return c, usageError{errors.New(strings.Join(lines, "\n"))}
	case errors.As(err, &decode):
		row, _ := decode.Position()
		if key := strings.Join(decode.Key(), "."); key != "" {
			err = fmt.Errorf("%s: %w", key, err)
		}
		return c, usageError{fmt.Errorf("%s:%d: %w", path, row, err)}
	case err != nil:
		return c, usageError{fmt.Errorf("%s: %w", path, err)}
	}
	return c, c.check(path)
}

// check refuses what no decoder sees.
func (c *config) check(path string) error {
	for _, w := range c.AllowInUse {
		if w != spec.UseNetwork {
			return usageError{fmt.Errorf("%s: allow_in_use: %q is not %q", path, w, spec.UseNetwork)}
		}
	}
	if c.Firmware != firmwareAll && c.Firmware != firmwareDeclared {
		return usageError{fmt.Errorf("%s: firmware: %q is neither %q nor %q", path, c.Firmware, firmwareAll, firmwareDeclared)}
	}
	for _, name := range slices.Concat(c.Policy.NeverLoad, c.Policy.NeverRemove) {
		if name == "" || strings.ContainsAny(name, "/. \t") {
			return usageError{fmt.Errorf("%s: policy: %q is not the name of a module", path, name)}
		}
	}
	return nil
}
