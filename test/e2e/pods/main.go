// SPDX-License-Identifier: Apache-2.0

// Command pods is everything that runs in pods of the end-to-end test but for
// what is tested: the process that holds a pod (pause), a device plugin for
// what the replaced driver makes (device-plugin), and a workload that asks for
// one of that (work). With dra it is alone in an image made of nothing.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/kmm-node/kmmd/test/e2e/pods/module"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		slog.Error("it ends", "err", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("usage: %s pause | device-plugin | work", os.Args[0])
	}
	switch args[0] {
	case "pause":
		pause(ctx)
		return nil
	case "device-plugin":
		return plug(ctx, os.Getenv("RESOURCE"), os.Getenv("MODULE"))
	case "work":
		return work(ctx)
	default:
		return fmt.Errorf("%s: there are pause, device-plugin, work", args[0])
	}
}

// pause is the first process of a pod: it buries what the others leave behind.
func pause(ctx context.Context) {
	children := make(chan os.Signal, 1)
	signal.Notify(children, syscall.SIGCHLD)
	for {
		select {
		case <-ctx.Done():
			return
		case <-children:
			for pid := 1; pid > 0; {
				pid, _ = syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
			}
		}
	}
}

// work needs what a plugin hands out, has its device open, says what that was, and
// goes on.
func work(ctx context.Context) error {
	device, build := os.Getenv(module.DeviceEnv), os.Getenv(module.BuildEnv)
	if device == "" || build == "" {
		return fmt.Errorf("no device was given to this pod: %s and %s are not set", module.DeviceEnv, module.BuildEnv)
	}
	if file := os.Getenv(module.FileEnv); file != "" {
		f, err := os.OpenFile(file, os.O_RDWR, 0)
		if err != nil {
			return fmt.Errorf("use device: %w", err)
		}
		defer f.Close()
	}
	fmt.Printf("works with %s of build %s\n", device, build)
	<-ctx.Done()
	return nil
}
