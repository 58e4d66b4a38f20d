// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/dynamic-resource-allocation/kubeletplugin"
	"k8s.io/dynamic-resource-allocation/resourceslice"

	"github.com/kmm-node/kmmd/test/e2e/pods/module"
)

// kind of our devices for the container runtime (CDI specification, 0.6.0).
const kind = "lab.example/module"

// driver implements kubeletplugin.DRAPlugin.
type driver struct {
	name, module, node string
	cdi                string // directory of CDI specifications
	end                func()
}

// device is the module's name as one of a device.
func (d *driver) device() string { return strings.ReplaceAll(d.module, "_", "-") }

// file is the module's device, a misc device of its name.
func (d *driver) file() string { return "/dev/" + d.module }

// resources are what the cluster is told of this node.
func (d *driver) resources() (resourceslice.DriverResources, error) {
	build, err := module.Build(d.module)
	if err != nil {
		return resourceslice.DriverResources{}, err
	}
	device := resourcev1.Device{Name: d.device(), Attributes: map[resourcev1.QualifiedName]resourcev1.DeviceAttribute{"build": {StringValue: &build}}}
	return resourceslice.DriverResources{Pools: map[string]resourceslice.Pool{
		d.node: {Slices: []resourceslice.Slice{{Devices: []resourcev1.Device{device}}}},
	}}, nil
}

// PrepareResourceClaims has the runtime tell containers what they have claimed.
func (d *driver) PrepareResourceClaims(_ context.Context, claims []*resourcev1.ResourceClaim) (map[types.UID]kubeletplugin.PrepareResult, error) {
	results := map[types.UID]kubeletplugin.PrepareResult{}
	for _, c := range claims {
		devices, err := d.prepare(c)
		results[c.UID] = kubeletplugin.PrepareResult{Devices: devices, Err: err}
	}
	return results, nil
}

func (d *driver) prepare(claim *resourcev1.ResourceClaim) ([]kubeletplugin.Device, error) {
	build, err := module.Build(d.module)
	if err != nil {
		return nil, err
	}
	data, err := json.Marshal(map[string]any{
		"cdiVersion": "0.6.0", "kind": kind,
		"devices": []any{map[string]any{
			"name": claim.UID,
			"containerEdits": map[string]any{
				"deviceNodes": []any{map[string]any{"path": d.file(), "permissions": "rw"}},
				"env":         []string{module.DeviceEnv + "=" + d.device(), module.BuildEnv + "=" + build, module.FileEnv + "=" + d.file()},
			},
		}},
	})
	if err != nil {
		return nil, fmt.Errorf("write CDI specification: %w", err)
	}
	// By another name first: the runtime reads what ends in .json at any time.
	file := d.specification(claim.UID)
	if err := os.WriteFile(file+".new", data, 0o644); err != nil {
		return nil, fmt.Errorf("write CDI specification: %w", err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		return nil, fmt.Errorf("write CDI specification: %w", err)
	}
	var devices []kubeletplugin.Device
	for _, r := range claim.Status.Allocation.Devices.Results {
		if r.Driver == d.name {
			devices = append(devices, kubeletplugin.Device{
				Requests: []string{r.Request}, PoolName: r.Pool, DeviceName: r.Device, CDIDeviceIDs: []string{kind + "=" + string(claim.UID)},
			})
		}
	}
	return devices, nil
}

func (d *driver) specification(claim types.UID) string {
	return filepath.Join(d.cdi, "lab-"+string(claim)+".json")
}

// UnprepareResourceClaims implements kubeletplugin.DRAPlugin.
func (d *driver) UnprepareResourceClaims(_ context.Context, claims []kubeletplugin.NamespacedObject) (map[types.UID]error, error) {
	results := map[types.UID]error{}
	for _, c := range claims {
		results[c.UID] = os.Remove(d.specification(c.UID))
		if errors.Is(results[c.UID], os.ErrNotExist) {
			results[c.UID] = nil
		}
	}
	return results, nil
}

// HandleError implements kubeletplugin.DRAPlugin.
func (d *driver) HandleError(_ context.Context, err error, message string) {
	slog.Error(message, "err", err)
	if !errors.Is(err, kubeletplugin.ErrRecoverable) {
		d.end()
	}
}

// WatchHealthStatus implements kubeletplugin.DRAPlugin.
func (d *driver) WatchHealthStatus(context.Context, chan<- kubeletplugin.DeviceHealthReport) error {
	return kubeletplugin.ErrHealthNotSupported
}
