// SPDX-License-Identifier: Apache-2.0

// Command cluster measures what it costs to have thousands of nodes: a real
// etcd and API server, the real kmm-watcher as a process of its own, and, in a
// third process, for each node the real source of kmmd with a stub behind it
// that says of everything it is given that it is loaded. It prints a table and
// fails when a target is missed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench-cluster:", err)
		os.Exit(1)
	}
}

// options are the flags.
type options struct {
	bin, watcher, logs string
	nodes              []int
	modules            int
	rest               time.Duration
	agents             string // the child's: a file
}

func parse() (o options, err error) {
	flag.StringVar(&o.bin, "bin", ".lab/cluster/bin", "directory of the control plane, made by test/cluster/setup")
	flag.StringVar(&o.watcher, "watcher", "", "the kmm-watcher to measure")
	flag.StringVar(&o.logs, "logs", "", "where the logs go; nowhere if empty")
	flag.IntVar(&o.modules, "modules", 20, "how many Modules there are")
	flag.DurationVar(&o.rest, "rest", 2*time.Minute, "how long nothing may be written at rest")
	flag.StringVar(&o.agents, "agents", "", "used internally: be the agents of this file")
	nodes := flag.String("nodes", "1000,5000", "how many nodes, one size after the other")
	flag.Parse()
	for _, word := range strings.Split(*nodes, ",") {
		n, err := strconv.Atoi(word)
		if err != nil || n < flips {
			return o, fmt.Errorf("-nodes %s: numbers from %d on, separated by commas", *nodes, flips)
		}
		o.nodes = append(o.nodes, n)
	}
	if o.modules < 2 {
		return o, errors.New("-modules: at least two")
	}
	for _, path := range []*string{&o.bin, &o.watcher} {
		if *path, err = filepath.Abs(*path); err != nil {
			return o, err
		}
	}
	return o, nil
}

func run(ctx context.Context) error {
	o, err := parse()
	if err != nil {
		return err
	}
	if o.agents != "" {
		return runAgents(ctx, o.agents)
	}
	var results []*result
	for _, n := range o.nodes {
		say("%d nodes", n)
		r, err := measureSize(ctx, o, n)
		if err != nil {
			return fmt.Errorf("%d nodes: %w", n, err)
		}
		results = append(results, r)
	}
	describe(os.Stdout)
	table(os.Stdout, o, results)
	if missed := misses(results); len(missed) > 0 {
		return fmt.Errorf("targets missed: %s", strings.Join(missed, "; "))
	}
	return nil
}

func say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "bench-cluster: %s "+format+"\n", append([]any{time.Now().Format(time.TimeOnly)}, args...)...)
}
