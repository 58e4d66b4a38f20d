// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// tool is one way to get modules and firmware out of an image.
type tool struct {
	name string
	// script pulls $REF and leaves opt/lib/modules/$RELEASE below $OUT, and
	// firmware unless modulesOnly. $WORK is where it may keep things.
	script string
	after  string   // undoes mounts; not measured
	images []string // what it is measured with

	peer        bool
	modulesOnly bool
	warm        bool // after a pull, with nobody listening where the registry was
	containerd  bool // needs the daemon
	loopback    bool // not worth the time on the slow link
}

// What KMM's init container does with the image that the kubelet has pulled.
const takeOut = `mkdir -p $OUT/opt/lib/modules
cp -R $ROOT/opt/lib/modules/$RELEASE $OUT/opt/lib/modules/
cp -R $ROOT/firmware $OUT/`

// kmmd is the command that is measured.
const (
	kmmd     = "$KMMD image pull --insecure --store $OUT/store --kernel $RELEASE --config $CONFIG/"
	all      = kmmd + "all.toml "
	declared = kmmd + "declared.toml --firmware /firmware "
)

func tools() []tool {
	large, gzip := []string{"large"}, []string{"large", "small"}
	return []tool{
		{name: "skopeo + umoci + cp", peer: true, images: gzip, script: `
skopeo --insecure-policy copy -q --src-tls-verify=false docker://$REF oci:$WORK/layout:v1
umoci unpack --image $WORK/layout:v1 $WORK/bundle
ROOT=$WORK/bundle/rootfs
` + takeOut},
		{name: "buildah from, mount, cp", peer: true, images: gzip, script: `
b="buildah --root $WORK/root --runroot $WORK/run --storage-driver overlay"
$b from -q --signature-policy $POLICY --tls-verify=false --name bench $REF
ROOT=$($b mount bench)
` + takeOut, after: `buildah --root $WORK/root --runroot $WORK/run --storage-driver overlay umount bench`},
		{name: "containerd pull, mount, cp", peer: true, images: gzip, containerd: true, script: `
ctr -a $SOCKET images pull --plain-http $REF
mkdir $WORK/rootfs
ctr -a $SOCKET images mount $REF $WORK/rootfs
ROOT=$WORK/rootfs
` + takeOut, after: `ctr -a $SOCKET images unmount $WORK/rootfs`},
		{name: "kmmd, one module", images: gzip, modulesOnly: true, script: all + "--module $MODULE $REF"},
		{name: "kmmd, all modules", images: gzip, modulesOnly: true, script: all + "$REF"},
		{name: "kmmd, modules and declared firmware", images: gzip, script: declared + "$REF"},
		{name: "kmmd, the same, zstd", images: []string{"large-zstd"}, script: declared + "$REF"},
		{name: "kmmd, modules and all firmware", images: large, script: all + "--firmware /firmware $REF"},
		{name: "kmmd, warm, no registry", images: gzip, warm: true, loopback: true, script: declared + "$REF"},
	}
}

// bench has what the runs share.
type bench struct {
	dir     string // wiped for each run
	kmmd    string // the program
	release string
	module  string
}

// run does one run from nothing and looks at what came out.
func (b *bench) run(t tool, i *image, l *link) (out figures, err error) {
	work := filepath.Join(b.dir, "run")
	if err := os.RemoveAll(work); err != nil {
		return out, err
	}
	for _, d := range []string{work, filepath.Join(work, "out"), filepath.Join(work, "work")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return out, err
		}
	}
	set := b.environment(work, l.addr+"/"+i.name+":v1")
	var d *daemon
	if t.containerd {
		stop, started, err := startContainerd(work)
		if err != nil {
			return out, err
		}
		defer stop()
		d = started
	}
	if t.after != "" {
		defer func() { err = errors.Join(err, runIn(work, "bash", "-euc", set+t.after)) }()
	}
	if t.warm {
		if _, err := measure(set+t.script, work, l, nil); err != nil {
			return out, err
		}
		if err := l.down(); err != nil {
			return out, err
		}
		defer func() { err = errors.Join(err, l.up()) }()
	}
	syscall.Sync()
	if out, err = measure(set+t.script, work, l, d); err != nil {
		return out, err
	}
	return out, b.check(t, work)
}

// configure writes the files that the scripts name.
func (b *bench) configure() error {
	for name, text := range map[string]string{
		"policy.json": `{"default":[{"type":"insecureAcceptAnything"}]}`, "all.toml": "", "declared.toml": "firmware = \"declared\"\n",
	} {
		if err := os.WriteFile(filepath.Join(b.dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// environment is the shell variables of a tool's script.
func (b *bench) environment(work, ref string) string {
	var out strings.Builder
	for _, v := range [][2]string{
		{"REF", ref}, {"RELEASE", b.release}, {"MODULE", b.module}, {"KMMD", b.kmmd}, {"POLICY", filepath.Join(b.dir, "policy.json")},
		{"CONFIG", b.dir},
		{"OUT", filepath.Join(work, "out")}, {"WORK", filepath.Join(work, "work")}, {"SOCKET", filepath.Join(work, "containerd.sock")},
	} {
		fmt.Fprintf(&out, "%s='%s'\n", v[0], v[1])
	}
	return out.String()
}

// check looks for the module and one file of firmware, wherever the tool puts
// them.
func (b *bench) check(t tool, work string) error {
	wanted := map[string]bool{b.module + ".ko": false, "modules.dep": false}
	if !t.modulesOnly {
		wanted["fw-00.bin"] = false
	}
	err := filepath.WalkDir(filepath.Join(work, "out"), func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if _, ok := wanted[d.Name()]; ok {
				wanted[d.Name()] = true
			}
		}
		return err
	})
	for name, found := range wanted {
		if !found {
			err = errors.Join(err, fmt.Errorf("%s did not give %s", t.name, name))
		}
	}
	return err
}

// startContainerd starts a daemon of its own below work.
func startContainerd(work string) (stop func(), d *daemon, err error) {
	config := filepath.Join(work, "containerd.toml")
	text := fmt.Sprintf("version = 2\nroot = %q\nstate = %q\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = %q\n",
		filepath.Join(work, "work/root"), filepath.Join(work, "work/state"), filepath.Join(work, "containerd.sock"))
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		return nil, nil, err
	}
	log, err := os.Create(filepath.Join(work, "containerd.log"))
	if err != nil {
		return nil, nil, err
	}
	cmd := exec.Command("containerd", "-c", config, "-l", "warn")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	stop = func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		log.Close()
	}
	for range 200 {
		if err = exec.Command("ctr", "-a", filepath.Join(work, "containerd.sock"), "version").Run(); err == nil {
			return stop, &daemon{pid: cmd.Process.Pid}, nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	stop()
	return nil, nil, fmt.Errorf("containerd does not start, see %s: %w", log.Name(), err)
}
