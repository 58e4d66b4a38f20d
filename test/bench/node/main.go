// SPDX-License-Identifier: Apache-2.0

// Command node measures kmmd at its main job, inside VMs with real kernels:
// from a document that is written to the module that runs, against
// finit_module(2) called by this program itself and against modprobe; then what
// kmmd costs while there is nothing to do. It prints tables for
// docs/performance.md, and fails when a target is missed. The script run
// prepares it all; the same program is what runs inside.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench-node:", err)
		os.Exit(1)
	}
}

// options are the flags.
type options struct {
	lab, bench string
	kernels    []string
	guest      bool

	rounds, looks int
	idle          time.Duration
	only          string
}

func parse() (o options, err error) {
	flag.StringVar(&o.lab, "lab", ".lab", "what test/vm/setup made")
	flag.StringVar(&o.bench, "bench", ".lab/bench", "what the script run made: bin/, node-RELEASE/")
	kernels := flag.String("kernels", "6.12,6.1", "kernels to measure on, one after the other")
	flag.IntVar(&o.rounds, "rounds", 9, "how often each way of loading is measured, in turns")
	flag.IntVar(&o.looks, "looks", 1000, "how often kmmd is made to look when there is nothing to do")
	flag.DurationVar(&o.idle, "idle", 4*time.Minute, "how long wake-ups are counted; kmmd looks around by itself every five minutes")
	flag.StringVar(&o.only, "only", "", "parts to measure, separated by commas: load, start, rest, idle, deps; all if empty")
	flag.BoolVar(&o.guest, "guest", false, "used internally: this is the VM")
	flag.Parse()
	o.kernels = strings.Split(*kernels, ",")
	if o.rounds < 1 || o.looks < 1 {
		return o, errors.New("-rounds, -looks: at least one")
	}
	for _, path := range []*string{&o.lab, &o.bench} {
		if *path, err = filepath.Abs(*path); err != nil {
			return o, err
		}
	}
	return o, nil
}

func run(ctx context.Context) error {
	o, err := parse()
	switch {
	case err != nil:
		return err
	case o.guest:
		return measure(ctx, o)
	}
	return onHost(ctx, o)
}

// part says whether a part is to be measured.
func (o options) part(name string) bool {
	return o.only == "" || strings.Contains(","+o.only+",", ","+name+",")
}
