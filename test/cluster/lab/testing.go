// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Patience is how long Wait waits, on a machine that is slow and does other things,
// too. Only what fails takes that long.
const Patience = 3 * time.Minute

// Main is for a package's TestMain: it starts one cluster for all tests, gives it
// to them by *shared, and returns the exit code. Without KMMD_CLUSTER it skips.
//
//	func TestMain(m *testing.M) { os.Exit(lab.Main(m, lab.Options{}, &cluster)) }
//
// A test in a shared cluster uses names of its own and removes what it made.
func Main(m interface{ Run() int }, o Options, shared **Cluster) int {
	if os.Getenv("KMMD_CLUSTER") == "" {
		fmt.Println("skip: no control plane, run it by make cluster-test")
		return 0
	}
	if o.Logs == "" {
		o.Logs = logsOf("")
	}
	c, err := Start(context.Background(), o)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer c.Stop()
	*shared = c
	code := m.Run()
	if code != 0 {
		fmt.Fprintf(os.Stderr, "%slogs: %s\n", c.LogTails(), o.Logs)
	}
	return code
}

// New starts a cluster for one test, with which it ends.
func New(t testing.TB, o Options) *Cluster {
	t.Helper()
	if o.Logs == "" {
		o.Logs = logsOf(t.Name())
	}
	c, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%slogs: %s", c.LogTails(), o.Logs)
		}
		c.Stop()
	})
	return c
}

// logsOf is a directory below .lab for the current package, and test.
func logsOf(test string) string {
	dir, err := os.Getwd()
	if err != nil {
		return ""
	}
	root, err := repository()
	if err != nil {
		return ""
	}
	name, _ := filepath.Rel(root, dir)
	return filepath.Join(root, ".lab", "log", strings.NewReplacer("/", "-").Replace(filepath.Join(name, test)))
}

// Overlay makes a directory for kubectl -k of one of the repository, such as deploy/base, with components. It is the
// test's, and goes with it.
func Overlay(t testing.TB, repository, dir string, components ...string) string {
	t.Helper()
	own := t.TempDir()
	root, err := filepath.Abs(repository)
	if err == nil {
		root, err = filepath.Rel(own, root)
	}
	if err == nil {
		text := "resources: [" + root + "/" + dir + "]\ncomponents:\n"
		for _, c := range components {
			text += "- " + root + "/" + c + "\n"
		}
		err = os.WriteFile(filepath.Join(own, "kustomization.yaml"), []byte(text), 0o600)
	}
	if err != nil {
		t.Fatalf("make an overlay of %s: %v", dir, err)
	}
	return own
}

// Kubectl runs kubectl as the administrator, requires that it succeeds, and
// returns its standard output. It works in a clean-up, too.
func (c *Cluster) Kubectl(t testing.TB, args ...string) string {
	t.Helper()
	return c.KubectlInput(t, "", args...)
}

// KubectlInput is Kubectl with a standard input, for "apply -f -".
func (c *Cluster) KubectlInput(t testing.TB, stdin string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), Patience)
	defer cancel()
	out, err := c.Run(ctx, stdin, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Wait asks again and again until the answer is no error, and ends the test after
// Patience.
func Wait(t testing.TB, what string, check func() error) {
	t.Helper()
	WaitFor(t, Patience, what, check)
}

// WaitFor is Wait with a patience of one's own.
func WaitFor(t testing.TB, patience time.Duration, what string, check func() error) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s: not after %s: %v", what, patience, err)
		}
	}
}
