// SPDX-License-Identifier: Apache-2.0

// Command dra is a DRA driver for the end-to-end test: the one device that it
// offers is a kernel module. A pod that has claimed it is told which build of
// the module is loaded.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/dynamic-resource-allocation/kubeletplugin"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx); err != nil {
		slog.Error("it ends", "err", err)
		stop()
		os.Exit(1)
	}
}

// run serves the kubelet until ctx is done. What the variables are called is for
// kmm-watcher to say, but for DRIVER and MODULE.
func run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	d := &driver{name: os.Getenv("DRIVER"), module: os.Getenv("MODULE"), node: os.Getenv("NODE_NAME"), cdi: os.Getenv("CDI_ROOT"), end: cancel}
	access, err := rest.InClusterConfig()
	if err != nil {
		return fmt.Errorf("find API server: %w", err)
	}
	client, err := kubernetes.NewForConfig(access)
	if err != nil {
		return fmt.Errorf("find API server: %w", err)
	}
	data := filepath.Join(os.Getenv("KUBELET_PLUGINS_DIRECTORY_PATH"), d.name)
	if err := os.MkdirAll(data, 0o700); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	helper, err := kubeletplugin.Start(ctx, d,
		kubeletplugin.KubeClient(client), kubeletplugin.DriverName(d.name), kubeletplugin.NodeName(d.node),
		kubeletplugin.RegistrarDirectoryPath(os.Getenv("KUBELET_REGISTRAR_DIRECTORY_PATH")),
		kubeletplugin.PluginDataDirectoryPath(data), kubeletplugin.HealthService(false))
	if err != nil {
		return fmt.Errorf("register: %w", err)
	}
	defer helper.Stop()
	resources, err := d.resources()
	if err != nil {
		return err
	}
	if err := helper.PublishResources(ctx, resources); err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	slog.Info("published", "driver", d.name, "device", d.device())
	return answer(ctx, os.Getenv("HEALTHCHECK_PORT"))
}

// answer says that it is well, as the probe of its pod asks, until ctx is done.
func answer(ctx context.Context, port string) error {
	l, err := net.Listen("tcp", ":"+port)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	server, well := grpc.NewServer(), health.NewServer()
	well.SetServingStatus("liveness", grpc_health_v1.HealthCheckResponse_SERVING)
	grpc_health_v1.RegisterHealthServer(server, well)
	go func() {
		<-ctx.Done()
		server.Stop()
	}()
	if err := server.Serve(l); err != nil {
		return fmt.Errorf("serve: %w", err)
	}
	return nil
}
