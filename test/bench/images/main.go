// SPDX-License-Identifier: Apache-2.0

// Command images measures how long it takes, and what it costs, to get a few
// kernel modules and their firmware out of a large image: kmmd against skopeo
// with umoci, buildah and containerd, on one machine, in turns. It needs root,
// the lab (test/vm/setup) and the packages that the script run installs.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	runtime.LockOSThread() // what we start dies with this thread
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench-images:", err)
		os.Exit(1)
	}
}

// options are the flags.
type options struct {
	lab, kmmd string
	rounds    int
	only      *regexp.Regexp
	links     []string
}

func parse() (o options, err error) {
	flag.StringVar(&o.lab, "lab", ".lab", "what test/vm/setup made; images and runs go to bench/ in it")
	flag.StringVar(&o.kmmd, "kmmd", "", "the program to measure")
	flag.IntVar(&o.rounds, "rounds", 5, "runs of each tool")
	only := flag.String("only", "", "tools and images that match, as in \"large kmmd, warm\"; all if empty")
	links := flag.String("links", "loopback,100mbit", "links to measure over")
	flag.Parse()
	o.links = strings.Split(*links, ",")
	if o.only, err = regexp.Compile(*only); err != nil {
		return o, err
	}
	if o.lab, err = filepath.Abs(o.lab); err != nil {
		return o, err
	}
	o.kmmd, err = filepath.Abs(o.kmmd)
	return o, err
}

func run() error {
	o, err := parse()
	if err != nil {
		return err
	}
	release, err := labRelease(o.lab)
	if err != nil {
		return err
	}
	dir := filepath.Join(o.lab, "bench")
	b := &builder{filepath.Join(dir, "layers"), content{filepath.Join(dir, "work"), filepath.Join(o.lab, release), release}}
	if err := os.MkdirAll(b.work, 0o755); err != nil {
		return err
	}
	images, err := b.images()
	if err != nil {
		return err
	}
	registry, stop, err := startRegistry(dir)
	if err != nil {
		return err
	}
	defer stop()
	for _, i := range images {
		if err := i.push(registry); err != nil {
			return err
		}
	}
	all := &bench{dir: dir, kmmd: o.kmmd, release: release, module: "me4000"}
	if err := all.configure(); err != nil {
		return err
	}
	describe(os.Stdout)
	for _, name := range o.links {
		if err := all.overLink(os.Stdout, o, name, registry, images); err != nil {
			return err
		}
	}
	return os.RemoveAll(filepath.Join(dir, "run"))
}

// overLink measures everything over one link: each tool once in a round, so that
// what else the machine does falls on all of them.
func (b *bench) overLink(w io.Writer, o options, name, registry string, images []*image) error {
	l := &link{target: registry}
	switch name {
	case "loopback":
	case "100mbit":
		l.rate, l.rtt = 100_000_000/8, 20*time.Millisecond
	default:
		return fmt.Errorf("no such link: %s", name)
	}
	if err := l.up(); err != nil {
		return err
	}
	defer func() { _ = l.down() }()
	for _, group := range [][]string{{"large", "large-zstd"}, {"small"}} {
		var rows []row
		var shown []*image
		for _, i := range images {
			if slices.Contains(group, i.name) {
				shown = append(shown, i)
			}
		}
		for round := range o.rounds {
			n := 0
			for _, t := range tools() {
				for _, i := range shown {
					if !slices.Contains(t.images, i.name) || t.loopback && name != "loopback" || !o.only.MatchString(i.name+" "+t.name) {
						continue
					}
					f, err := b.run(t, i, l)
					if err != nil {
						return fmt.Errorf("%s, %s: %w", i.name, t.name, err)
					}
					fmt.Fprintf(os.Stderr, "bench-images: %s, round %d: %s, %s: %.2f s\n", name, round+1, i.name, t.name, f.Wall.Seconds())
					if round == 0 {
						rows = append(rows, row{tool: t, image: i})
					}
					rows[n].runs = append(rows[n].runs, f)
					n++
				}
			}
		}
		if len(rows) > 0 {
			table(w, name, rows)
		}
	}
	return nil
}

// labRelease is the first kernel of the lab.
func labRelease(lab string) (string, error) {
	b, err := os.ReadFile(filepath.Join(lab, "kernels"))
	if err != nil {
		return "", fmt.Errorf("there is no lab: run make setup: %w", err)
	}
	fields := strings.Fields(string(b))
	if len(fields) < 2 {
		return "", errors.New("the lab's list of kernels is empty: run make setup")
	}
	return fields[1], nil
}

// startRegistry starts a registry that keeps its blobs below dir.
func startRegistry(dir string) (addr string, stop func(), err error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	addr = listener.Addr().String()
	listener.Close()
	config := filepath.Join(dir, "registry.yml")
	text := fmt.Sprintf("version: 0.1\nlog: {level: warn, accesslog: {disabled: true}}\nstorage:\n  filesystem: {rootdirectory: %s}\nhttp: {addr: %q}\n",
		filepath.Join(dir, "registry"), addr)
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		return "", nil, err
	}
	cmd := exec.Command("docker-registry", "serve", config)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	stop = func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	for range 200 {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
			return addr, stop, nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	stop()
	return "", nil, errors.New("the registry does not start")
}

// describe says what was measured with what.
func describe(w io.Writer) {
	script := `. /etc/os-release; echo "$PRETTY_NAME, Linux $(uname -r), $(nproc) cores $(sed -n 's/^model name[^:]*: //p;T;q' /proc/cpuinfo);"
dpkg-query -W -f '${Package} ${Version}; ' skopeo umoci buildah containerd docker-registry`
	b, err := exec.Command("bash", "-c", script).Output()
	if err == nil {
		fmt.Fprintln(w, strings.TrimSuffix(strings.TrimSpace(string(b)), ";"))
	}
}
