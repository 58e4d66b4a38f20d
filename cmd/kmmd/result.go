// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"os"
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

func (r result) line() ([]byte, error) {
	for {
		line, err := json.Marshal(r)
		if err != nil || len(line)+1 <= maxResult || r.Message == "" {
			return append(line, '\n'), err
		}
		keep := len(r.Message) - max(len(line)+1-maxResult, 8)
		r.Message = strings.ToValidUTF8(r.Message[:max(keep, 0)], "")
		if r.Message != "" {
			r.Message = strings.TrimSuffix(r.Message, "…") + "…"
		}
	}
}
