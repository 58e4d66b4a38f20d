// SPDX-License-Identifier: Apache-2.0

// Command do does on this machine what pages say for a lab, in a directory:
//
//	do LAB DIRECTORY PAGE...
//
// It is run at the root of the repository.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/kmm-node/kmmd/test/docs"
)

func main() {
	if len(os.Args) < 4 {
		fmt.Fprintln(os.Stderr, "usage: do LAB DIRECTORY PAGE...")
		os.Exit(2)
	}
	for _, path := range os.Args[3:] {
		page, err := docs.Read(".", path)
		if err == nil {
			err = page.Do(context.Background(), os.Args[1], os.Args[2])
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "do:", err)
			os.Exit(1)
		}
	}
}
