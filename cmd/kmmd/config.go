// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"

	"github.com/kmm-node/kmmd/pkg/images"
	"github.com/kmm-node/kmmd/pkg/spec"
)

const defaultConfigFile = "/etc/kmmd/kmmd.toml"

// config is kmmd.toml. Every key may be left out. The comments of the fields are
// what users read: docs/reference/configuration.md and deploy/packages/kmmd.toml
// are made of them.
type config struct {
	// Directory of Module documents: "*.yaml", "*.yml" and "*.toml". Hidden files and
	// subdirectories are left out. A file may have several, and Lists of them as kubectl
	// writes them; documents of other kinds are left alone.
	ModulesDir string `toml:"modules_dir"`
	// Images, the cluster's last order, and which firmware file belongs to whom. It
	// has to survive a reboot.
	StateDir string `toml:"state_dir"`
	// Ledger, lock and status. It must not survive a reboot.
	RunDir string `toml:"run_dir"`
	// Where firmware is copied to, and where the kernel is told to look for it. The
	// kernel looks in the mount namespace of process 1.
	FirmwareDir string `toml:"firmware_dir"`
	// Where the node's root is mounted: its /proc, /sys, /dev, /run and /lib/modules
	// are taken from there.
	HostRoot string `toml:"host_root"`

	// Address of /metrics, /livez and /readyz, HOST:PORT; "" serves nothing.
	Listen string `toml:"listen"`
	// How long systemd, and what it starts after kmmd, waits for the first look at
	// the node. A slow registry does not keep the kubelet from starting.
	StartWait duration `toml:"start_wait"`
	// How long one module's init may take, or a driver to take a device. After that
	// the module needs a reboot.
	LoadTimeout duration `toml:"load_timeout"`
	// How long one unload may take, or a driver to leave a device. After that the
	// module needs a reboot.
	UnloadTimeout duration `toml:"unload_timeout"`
	// How often everything is looked at without a hint.
	Resync duration `toml:"resync"`

	// The node's own policy for drivers in use: ["network"] allows every Module to
	// replace the driver of an interface in use. Empty leaves it to each Module's
	// allowInUse.
	AllowInUse []string `toml:"allow_in_use"`
	// How long an interface may take to come back, with its carrier, after its driver
	// was replaced.
	NetworkTimeout duration `toml:"network_timeout"`

	// How much the image store may hold. What was not used for longest goes first,
	// never what runs or is wanted.
	ImageQuota size `toml:"image_quota"`
	// An image that nothing needs is removed when it has not been used for so long.
	ImageKeepUnused duration `toml:"image_keep_unused"`
	// "all": every layer that may have more firmware in firmwarePath is read.
	// "declared": older layers are not read for firmware once every file that the
	// modules declare (modinfo -F firmware) is there.
	Firmware string `toml:"firmware"`
	// Get the images for the kernels that are installed and do not run. The status
	// tells for each: ready, or why not.
	Prestage bool `toml:"prestage"`

	Policy  policy `toml:"policy"`
	Cluster joins  `toml:"cluster"`
}

// What this node allows, whatever the documents say. A refusal has the reason Policy
// and names the rule.
type policy struct {
	// Images may come from below these only: "registry.example" or
	// "registry.example/drivers". An empty list allows all.
	AllowedRepositories []string `toml:"allowed_repositories"`
	// An image has to be named by digest, IMAGE@sha256:...
	RequireDigest bool `toml:"require_digest"`
	// Files with PEM public keys. If there are any, every image needs a cosign
	// signature by one of them.
	SignatureKeys []string `toml:"signature_keys"`
	// Modules that are never loaded, also not as a dependency.
	NeverLoad []string `toml:"never_load"`
	// Modules that are never unloaded: neither in favour of another one nor when their
	// document is gone.
	NeverRemove []string `toml:"never_remove"`
}

// Whether orders come from a cluster, too.
type joins struct {
	// Watch this node's NodeModulesConfig and write its status. kmmd run --cluster
	// does the same, and so does KMMD_CLUSTER=true in the environment, for all
	// commands: what is run in a pod by kubectl exec then knows the orders as well.
	Enabled bool `toml:"enabled"`
	// The node's name in the cluster. "" is NODE_NAME of the environment, else the
	// host's name in lower case.
	NodeName string `toml:"node_name"`
	// How the API server is reached, such as the kubelet's
	// /etc/kubernetes/kubelet.conf; "" is the ServiceAccount of the pod. Tokens and
	// certificates in files are read again when they change. One that names a program
	// to be run for credentials is refused: kmmd runs none.
	Kubeconfig string `toml:"kubeconfig"`
}

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
	if c.Listen != "" {
		_, port, err := net.SplitHostPort(c.Listen)
		if err == nil {
			_, err = net.LookupPort("tcp", port)
		}
		if err != nil {
			return usageError{fmt.Errorf("%s: listen: %q is no HOST:PORT: %w", path, c.Listen, err)}
		}
	}
	for _, name := range slices.Concat(c.Policy.NeverLoad, c.Policy.NeverRemove) {
		if name == "" || strings.ContainsAny(name, "/. \t") {
			return usageError{fmt.Errorf("%s: policy: %q is not the name of a module", path, name)}
		}
	}
	return nil
}
