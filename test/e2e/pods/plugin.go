// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/kmm-node/kmmd/test/e2e/pods/module"
)

// plugin offers each device of a kernel module as one of a resource, as long as
// the module is one that was built out of tree.
type plugin struct {
	v1beta1.UnimplementedDevicePluginServer
	resource, module string
}

// plug offers the devices to the kubelet, to one that was started anew as well,
// until ctx is done.
func plug(ctx context.Context, resource, name string) error {
	if resource == "" || name == "" {
		return errors.New("RESOURCE and MODULE have to say what is offered")
	}
	p := &plugin{resource: resource, module: name}
	for ctx.Err() == nil {
		if err := p.offer(ctx); err != nil {
			return err
		}
	}
	return nil
}

// offer serves until ctx is done or another kubelet is there.
func (p *plugin) offer(ctx context.Context) error {
	socket := filepath.Join(v1beta1.DevicePluginPath, "lab-"+p.module+".sock")
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("listen: %w", err)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	server := grpc.NewServer()
	v1beta1.RegisterDevicePluginServer(server, p)
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	defer server.Stop()
	kubelet, err := os.Stat(v1beta1.KubeletSocket)
	if err != nil {
		return fmt.Errorf("find kubelet: %w", err)
	}
	if err := p.register(ctx, filepath.Base(socket)); err != nil {
		return err
	}
	slog.Info("registered", "resource", p.resource, "devices", len(p.devices()))
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-ended:
			return fmt.Errorf("serve: %w", err)
		case <-tick.C:
			if now, err := os.Stat(v1beta1.KubeletSocket); err == nil && !os.SameFile(kubelet, now) {
				slog.Info("the kubelet was started anew")
				return nil
			}
		}
	}
}

func (p *plugin) register(ctx context.Context, endpoint string) error {
	connection, err := grpc.NewClient("unix://"+v1beta1.KubeletSocket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return fmt.Errorf("register: %w", err)
	}
	defer connection.Close()
	_, err = v1beta1.NewRegistrationClient(connection).Register(ctx, &v1beta1.RegisterRequest{
		Version: v1beta1.Version, Endpoint: endpoint, ResourceName: p.resource,
	})
	if err != nil {
		return fmt.Errorf("register %s: %w", p.resource, err)
	}
	return nil
}

// devices are as many as the module says that it has made: none while the
// kernel's own driver is loaded, or none at all.
func (p *plugin) devices() []*v1beta1.Device {
	taint, _ := p.file("taint")
	if !strings.Contains(string(taint), "O") {
		return nil
	}
	text, _ := p.file("parameters/numdummies")
	count, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	devices := make([]*v1beta1.Device, count)
	for i := range devices {
		devices[i] = &v1beta1.Device{ID: p.module + strconv.Itoa(i), Health: v1beta1.Healthy}
	}
	return devices
}

func (p *plugin) file(name string) ([]byte, error) {
	return os.ReadFile(filepath.Join("/sys/module", p.module, name))
}

// GetDevicePluginOptions implements v1beta1.DevicePluginServer.
func (p *plugin) GetDevicePluginOptions(context.Context, *v1beta1.Empty) (*v1beta1.DevicePluginOptions, error) {
	return &v1beta1.DevicePluginOptions{}, nil
}

// ListAndWatch implements v1beta1.DevicePluginServer: the list, and again
// whenever it is another one.
func (p *plugin) ListAndWatch(_ *v1beta1.Empty, out grpc.ServerStreamingServer[v1beta1.ListAndWatchResponse]) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for last := -1; ; {
		if devices := p.devices(); len(devices) != last {
			last = len(devices)
			if err := out.Send(&v1beta1.ListAndWatchResponse{Devices: devices}); err != nil {
				return err
			}
		}
		select {
		case <-out.Context().Done():
			return nil
		case <-tick.C:
		}
	}
}

// Allocate implements v1beta1.DevicePluginServer: a container is told which
// device it has, and which build of the driver serves it.
func (p *plugin) Allocate(_ context.Context, in *v1beta1.AllocateRequest) (*v1beta1.AllocateResponse, error) {
	build, err := module.Build(p.module)
	if err != nil {
		return nil, err
	}
	out := &v1beta1.AllocateResponse{}
	for _, container := range in.GetContainerRequests() {
		out.ContainerResponses = append(out.ContainerResponses, &v1beta1.ContainerAllocateResponse{
			Envs: map[string]string{module.DeviceEnv: strings.Join(container.GetDevicesIds(), ","), module.BuildEnv: build},
		})
	}
	return out, nil
}
