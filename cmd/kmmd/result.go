// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"sort"
	"strings"
)

// maxResult is what Kubernetes keeps of a container's termination message, in
// bytes (kubelet: types.MaxContainerTerminationMessageLength).
const maxResult = 4096

// result is what a container of a Job tells about what it did.
type result struct {
	Image   string `json:"image"`
	Digest  string `json:"digest,omitempty"`
	OK      bool   `json:"ok"`
	Reason  string `json:"reason,omitempty"` // a word of pkg/spec, when it is not OK
	Message string `json:"message,omitempty"`
}

// write puts the result into a file as one line, shortened to what Kubernetes
// keeps. The file may be one that is mounted, and so can not be renamed to.
func (r result) write(file string) error {
	line, err := r.line()
	if err != nil {
		return fmt.Errorf("write result: %w", err)
	}
	if err := os.WriteFile(file, line, 0o644); err != nil {
		return fmt.Errorf("write result: %w", err)
	}
	return nil
}

// line is the longest that Kubernetes keeps.
func (r result) line() ([]byte, error) {
	line, err := json.Marshal(r)
	if err != nil || len(line) < maxResult {
		return append(line, '\n'), err
	}
	whole, fit := r.Message, []byte(nil)
	sort.Search(len(whole), func(n int) bool {
		r.Message = strings.ToValidUTF8(whole[:n], "") + "…"
		line, err := json.Marshal(r)
		if err == nil && len(line) < maxResult {
			fit = line
			return false
		}
		return true
	})
	if fit == nil {
		return nil, fmt.Errorf("the rest of it has more than %d bytes", maxResult)
	}
	return append(fit, '\n'), nil
}
