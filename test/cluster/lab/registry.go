// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
)

// listening is what docker-registry says when it does.
var listening = regexp.MustCompile(`listening on 127\.0\.0\.1:(\d+)`)

// StartRegistry runs Debian's docker-registry on the loopback interface, plain
// HTTP and open to all, with its data in dir, and returns when it listens on the
// port. Its log is that of the name.
func (c *Cluster) StartRegistry(ctx context.Context, name, dir string) (p *Program, port string, err error) {
	config := filepath.Join(dir, "config.yml")
	text := fmt.Appendf(nil, `version: 0.1
log: {level: info}
storage: {filesystem: {rootdirectory: %q}}
http: {addr: "127.0.0.1:0", relativeurls: true}
`, filepath.Join(dir, "data"))
	if err := os.WriteFile(config, text, 0o600); err != nil {
		return nil, "", fmt.Errorf("start registry: %w", err)
	}
	p, err = c.StartProgram(name, exec.Command("docker-registry", "serve", config))
	if err != nil {
		return nil, "", fmt.Errorf("%w (test/vm/setup installs it)", err)
	}
	err = p.process.waitFor(ctx, func() error {
		found := listening.FindStringSubmatch(p.Log())
		if found == nil {
			return errors.New(p.Log())
		}
		port = found[1]
		return nil
	})
	if err != nil {
		p.Kill()
		return nil, "", fmt.Errorf("start registry: %w", err)
	}
	return p, port, nil
}
