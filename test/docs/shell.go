// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
)

// Shell is a shell that one command after the other is typed into: directory,
// variables and what runs in the background stay. Commands have nothing to read.
type Shell struct {
	cmd   *exec.Cmd
	input io.WriteCloser
	said  *bufio.Reader
}

// NewShell starts one, with more variables than this process has. Close ends it.
func NewShell(dir string, env ...string) (*Shell, error) {
	s := &Shell{cmd: exec.Command("sh")}
	s.cmd.Dir = dir
	s.cmd.Env = append(os.Environ(), env...)
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var err error
	if s.input, err = s.cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("start shell: %w", err)
	}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start shell: %w", err)
	}
	s.cmd.Stderr = s.cmd.Stdout
	s.said = bufio.NewReader(out)
	if err := s.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start shell: %w", err)
	}
	return s, nil
}

// mark is a byte that no command prints, around an exit code.
const mark = '\001'

// Run has a command done, and returns what it printed, errors included, and its exit
// code. An error is that of the shell, or of ctx, with which the shell ends.
func (s *Shell) Run(ctx context.Context, command string) (output string, code int, err error) {
	defer context.AfterFunc(ctx, s.kill)()
	_, err = fmt.Fprintf(s.input, "{ %s\n} </dev/null\nprintf '\\%o%%d\\%o' $?\n", command, mark, mark)
	if err == nil {
		output, err = s.said.ReadString(mark)
	}
	ended := ""
	if err == nil {
		ended, err = s.said.ReadString(mark)
	}
	if err == nil {
		code, err = strconv.Atoi(strings.TrimSuffix(ended, string(mark)))
	}
	if err != nil {
		return output, 0, fmt.Errorf("run %q: the shell has ended: %w", command, errors.Join(err, context.Cause(ctx)))
	}
	return strings.TrimSuffix(output, string(mark)), code, nil
}

func (s *Shell) kill() {
	_ = syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL) // it may have ended
}

// Close ends the shell, and what it runs.
func (s *Shell) Close() {
	s.kill()
	s.input.Close()
	_ = s.cmd.Wait() // it was killed
}

// Do does what a page says for a lab, for who has no test: in a directory, with more
// variables than this process has. It ends with the first command that fails.
func (p *Page) Do(ctx context.Context, lab, dir string, env ...string) error {
	shell, err := NewShell(dir, env...)
	if err != nil {
		return err
	}
	defer shell.Close()
	done := 0
	for _, b := range p.Blocks {
		if b.Lab != lab {
			continue
		}
		commands, err := b.Commands()
		if err != nil {
			return err
		}
		for _, c := range commands {
			output, code, err := shell.Run(ctx, c.Text)
			if err != nil {
				return fmt.Errorf("%s: %w\n%s", c, err, output)
			}
			if code != 0 {
				return fmt.Errorf("%s: exit code %d\n%s", c, code, output)
			}
			done++
		}
	}
	if done == 0 {
		return fmt.Errorf("%s has nothing for the lab %s", p.Path, lab)
	}
	return nil
}
