// SPDX-License-Identifier: Apache-2.0

// Command pull stands for `kmmd image pull`, with the same flags.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"

	"github.com/kmm-node/kmmd/pkg/images"
)

func main() {
	var r images.Request
	f := flag.NewFlagSet("image pull", flag.ExitOnError)
	store := f.String("store", "", "directory of the store")
	f.Func("kernel", "release", func(s string) error { r.Releases = append(r.Releases, s); return nil })
	f.Func("module", "name", func(string) error { return nil })
	f.StringVar(&r.FirmwarePath, "firmware", "", "directory of the image")
	f.Bool("declared-firmware", false, "no more firmware than the modules declare")
	f.BoolVar(&r.Insecure, "insecure", false, "plain http")
	_ = f.Parse(os.Args[3:])
	r.Ref = f.Arg(0)
	if err := pull(*store, r); err != nil {
		fmt.Fprintln(os.Stderr, "pull:", err)
		os.Exit(1)
	}
}

func pull(dir string, r images.Request) error {
	s, err := images.Open(dir, images.Options{})
	if err != nil {
		return err
	}
	_, err = s.Ensure(context.Background(), r)
	return err
}
