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

	"github.com/kmm-node/kmmd/pkg/kernel"
	"github.com/kmm-node/kmmd/pkg/sign/image"
	"github.com/kmm-node/kmmd/pkg/spec"
)

// Exit codes, the same for every command.
const (
	exitOK    = 0
	exitNotOK = 1 // something is not as wanted
	exitUsage = 2 // usage, configuration or a document that can not be used
	// An image was made, and could not be written to its place. Who looks after Jobs
	// (pkg/build) tells by it that the registry is to blame.
	exitNotWritten = 3
)

// errNotAsWanted ends a command with exit code 1 and without another word: the
// output has said what is wrong.
var errNotAsWanted = errors.New("not as wanted")

// usageError ends a command with exit code 2.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func main() {
	kernel.RunChild() // first: does not return in the child that makes a system call
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

func exitCode(err error) int {
	var usage usageError
	var write *image.WriteError
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errNotAsWanted):
		return exitNotOK
	}
	fmt.Fprintln(os.Stderr, "kmmd:", err)
	if errors.As(err, &usage) || errors.Is(err, spec.ErrInvalid) {
		return exitUsage
	}
	if errors.As(err, &write) {
		return exitNotWritten
	}
	return exitNotOK
}
