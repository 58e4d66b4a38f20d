// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
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

// openResult opens the file where the result goes, nil without one. It is written in
// place: the kubelet gives a container /dev/termination-log as a mount of its own,
// over which nothing can be renamed.
func openResult(name string) (*os.File, error) {
	if name == "" {
		return nil, nil
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open the file for the result: %w", err)
	}
	return f, nil
}

// write puts the result into the file as one line, shortened to what Kubernetes keeps, and closes it.
func (r result) write(file *os.File) error {
	line, err := r.line()
	if err == nil {
		_, err = file.Write(line)
	}
	if err = errors.Join(err, file.Close()); err != nil {
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
