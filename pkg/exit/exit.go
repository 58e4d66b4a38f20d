// SPDX-License-Identifier: Apache-2.0

// Package exit has the exit codes of kmmd and kmm-watcher: the numbers and what they
// stand for. Which error ends in which of them is each program's own.
package exit

// Code is what a process gives to whoever has started it.
type Code int

const (
	// OK: all is as wanted, or what was asked for is done.
	OK Code = 0
	// NotAsWanted: something is not as wanted, or could not be done. The output, or
	// the message on standard error, says what. It may be otherwise at the next try.
	NotAsWanted Code = 1
	// Usage: the command line, the configuration or a document can not be used. The
	// next try ends in the same way until it is changed, so kmmd.service is not
	// started again after it.
	Usage Code = 2
	// NotWritten: an image was made, and could not be written to its place. Who looks
	// after image Jobs tells by it that the registry is to blame.
	NotWritten Code = 3
)
