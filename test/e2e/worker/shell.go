// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"bufio"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"
)

const (
	// greeting is the first that the node's end says.
	greeting = "lab-shell"
	// answerTime is how long it may take to answer.
	answerTime = time.Minute
)

// shell is our end of node/shell.
type shell struct {
	connection net.Conn
	in         *bufio.Reader
	number     int // of the last command
}

func dial(path string) (*shell, error) {
	connection, err := net.Dial("unix", path)
	if err != nil {
		return nil, err
	}
	return &shell{connection: connection, in: bufio.NewReader(connection)}, nil
}

func (s *shell) close() { s.connection.Close() }

// started waits for the greeting.
func (s *shell) started() error {
	for {
		line, err := s.line()
		if err != nil {
			return err
		}
		if line == greeting {
			return nil
		}
	}
}

func (s *shell) line() (string, error) {
	if err := s.connection.SetDeadline(time.Now().Add(answerTime)); err != nil {
		return "", err
	}
	line, err := s.in.ReadString('\n')
	return strings.TrimSpace(line), err
}

// run has a command run. Answers to earlier ones, which came too late, are passed
// over.
func (s *shell) run(command string) (code int, out string, err error) {
	s.number++
	if err := s.connection.SetDeadline(time.Now().Add(answerTime)); err != nil {
		return 0, "", err
	}
	if _, err := fmt.Fprintln(s.connection, s.number, base64.StdEncoding.EncodeToString([]byte(command))); err != nil {
		return 0, "", fmt.Errorf("ask: %w", err)
	}
	for {
		line, err := s.line()
		if err != nil {
			return 0, "", fmt.Errorf("read answer: %w", err)
		}
		if number, code, out, err := answer(line); err == nil && number == s.number {
			return code, out, nil
		}
	}
}

// answer reads a line such as "7 0 aGVsbG8K".
func answer(line string) (number, code int, out string, err error) {
	fields := strings.Fields(line)
	if len(fields) != 3 {
		return 0, 0, "", errors.New("no answer")
	}
	if number, err = strconv.Atoi(fields[0]); err != nil {
		return 0, 0, "", err
	}
	if code, err = strconv.Atoi(fields[1]); err != nil {
		return 0, 0, "", err
	}
	data, err := base64.StdEncoding.DecodeString(fields[2])
	return number, code, strings.TrimSpace(string(data)), err
}
