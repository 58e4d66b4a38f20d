// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"

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

	AllowInUse     []string `toml:"allow_in_use"`    // the node's policy: network
	NetworkTimeout duration `toml:"network_timeout"` // for interfaces to come back
}

func defaultConfig() config {
	return config{
		ModulesDir: "/etc/kmmd/modules.d", StateDir: "/var/lib/kmmd", RunDir: "/run/kmmd",
		FirmwareDir: "/var/lib/firmware", HostRoot: "/", Listen: "127.0.0.1:9808",
		NetworkTimeout: duration{30 * time.Second},
		LoadTimeout:    duration{2 * time.Minute}, UnloadTimeout: duration{time.Minute}, Resync: duration{5 * time.Minute},
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
	for _, w := range c.AllowInUse {
		if w != spec.UseNetwork {
			return c, usageError{fmt.Errorf("%s: allow_in_use: %q is not %q", path, w, spec.UseNetwork)}
		}
	}
	return c, nil
}
