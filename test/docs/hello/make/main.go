// SPDX-License-Identifier: Apache-2.0

// Command make makes the image of docs/quickstart/bare-node.md for a kernel release
// of the lab, unless it is there, and prints the directory with it. It is run at
// the root of the repository.
package main

import (
	"fmt"
	"os"

	"github.com/kmm-node/kmmd/test/docs/hello"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: make RELEASE")
		os.Exit(2)
	}
	dir, err := hello.Dir(".", os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, "make:", err)
		os.Exit(1)
	}
	fmt.Println(dir)
}
