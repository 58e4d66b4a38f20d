// SPDX-License-Identifier: Apache-2.0

// Command generate writes the pages of docs/reference that are made of packages,
// below the root of the repository, its argument.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/kmm-node/kmmd/test/reference"
)

func main() {
	if err := generate(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "generate:", err)
		os.Exit(1)
	}
}

func generate(root string) error {
	pages, err := reference.Pages(root)
	if err != nil {
		return err
	}
	for path, text := range pages {
		if err := os.WriteFile(filepath.Join(root, path), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}
