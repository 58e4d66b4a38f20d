// SPDX-License-Identifier: Apache-2.0

// Command kmmd puts out-of-tree kernel modules into the kernel of the node it
// runs on. It is flags, configuration and wiring; what it does is in pkg/.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"k8s.io/klog/v2"

	"github.com/kmm-node/kmmd/pkg/exit"
	"github.com/kmm-node/kmmd/pkg/kernel"
	"github.com/kmm-node/kmmd/pkg/memory"
	"github.com/kmm-node/kmmd/pkg/sign/image"
	"github.com/kmm-node/kmmd/pkg/spec"
)

// errNotAsWanted ends a command with exit.NotAsWanted and without another word: the
// output has said what is wrong.
var errNotAsWanted = errors.New("not as wanted")

// usageError ends a command with exit.Usage.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func main() {
	kernel.RunChild() // first: does not return in the child that makes a system call
	memory.NoHugePages()
	log, root := newLog(), rootCommand()
	klog.SetSlogLogger(log) // what client-go says
	err := confineTo(root, os.Args[1:], log)
	if err == nil {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		err = root.ExecuteContext(ctx)
		stop()
	}
	os.Exit(exitCode(err))
}

// exitCode says on standard error what the output has not said.
func exitCode(err error) int {
	var usage usageError
	var write *image.WriteError
	code := exit.NotAsWanted
	switch {
	case err == nil:
		return int(exit.OK)
	case errors.Is(err, errNotAsWanted):
		return int(code)
	case errors.As(err, &usage), errors.Is(err, spec.ErrInvalid):
		code = exit.Usage
	case errors.As(err, &write):
		code = exit.NotWritten
	}
	fmt.Fprintln(os.Stderr, "kmmd:", plainText(err.Error()))
	return int(code)
}
