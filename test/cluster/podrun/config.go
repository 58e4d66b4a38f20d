// SPDX-License-Identifier: Apache-2.0

package podrun

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// runtimeConfig is config.json of a bundle, as far as it is needed (runtime-spec
// 1.0, config.md and config-linux.md).
type runtimeConfig struct {
	Version  string  `json:"ociVersion"`
	Process  process `json:"process"`
	Root     root    `json:"root"`
	Hostname string  `json:"hostname"`
	Mounts   []mount `json:"mounts"`
	Linux    linux   `json:"linux"`
}

type process struct {
	User            user                `json:"user"`
	Args            []string            `json:"args"`
	Env             []string            `json:"env"`
	Cwd             string              `json:"cwd"`
	Capabilities    map[string][]string `json:"capabilities"`
	NoNewPrivileges bool                `json:"noNewPrivileges"`
}

type user struct {
	UID    int64   `json:"uid"`
	GID    int64   `json:"gid"`
	Groups []int64 `json:"additionalGids,omitempty"`
}

type root struct {
	Path     string `json:"path"`
	Readonly bool   `json:"readonly"`
}

type mount struct {
	Destination string   `json:"destination"`
	Type        string   `json:"type"`
	Source      string   `json:"source"`
	Options     []string `json:"options,omitempty"`
}

type linux struct {
	Namespaces    []namespace `json:"namespaces"`
	MaskedPaths   []string    `json:"maskedPaths,omitempty"`
	ReadonlyPaths []string    `json:"readonlyPaths,omitempty"`
	Seccomp       *seccomp    `json:"seccomp,omitempty"`
}

type namespace struct {
	Type string `json:"type"`
	Path string `json:"path,omitempty"` // of one that is there; empty: a new one
}

// What runtimes hide of /proc and /sys (containerd, pkg/oci/spec.go).
var (
	masked = []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
		"/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap",
	}
	readonly = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

// config is what the runtime is told of a container.
func (p *pod) config(c *corev1.Container, image Image) (*runtimeConfig, error) {
	security := c.SecurityContext
	if security == nil {
		security = &corev1.SecurityContext{}
	}
	user, err := p.user(security)
	if err != nil {
		return nil, err
	}
	env, err := environment(c, image)
	if err != nil {
		return nil, err
	}
	mounts, err := p.mounts(c, image)
	if err != nil {
		return nil, err
	}
	caps := capabilities(security)
	config := &runtimeConfig{
		Version: "1.0.0", Hostname: p.object.Name, Mounts: mounts,
		Root: root{Path: "root", Readonly: isTrue(security.ReadOnlyRootFilesystem)},
		Process: process{
			User: user, Args: arguments(c, image, env), Cwd: "/",
			Capabilities:    map[string][]string{"bounding": caps, "effective": caps, "permitted": caps},
			NoNewPrivileges: security.AllowPrivilegeEscalation != nil && !*security.AllowPrivilegeEscalation,
		},
	}
	for _, name := range slices.Sorted(maps.Keys(env)) {
		config.Process.Env = append(config.Process.Env, name+"="+env[name])
	}
	if c.WorkingDir != "" {
		config.Process.Cwd = c.WorkingDir
	}
	for _, kind := range []string{"pid", "ipc", "uts", "mount"} {
		config.Linux.Namespaces = append(config.Linux.Namespaces, namespace{Type: kind})
	}
	if p.network != "" {
		config.Linux.Namespaces = append(config.Linux.Namespaces, namespace{"network", p.network})
	}
	if isTrue(security.Privileged) {
		return config, nil
	}
	config.Linux.MaskedPaths, config.Linux.ReadonlyPaths = masked, readonly
	config.Linux.Seccomp, err = p.seccomp(security, caps)
	if err == nil && p.strict && config.Linux.Seccomp != nil {
		config.Linux.Seccomp.restrict()
	}
	return config, err
}

func (p *pod) user(security *corev1.SecurityContext) (user, error) {
	var u user
	all := p.object.Spec.SecurityContext
	if all == nil {
		all = &corev1.PodSecurityContext{}
	}
	for _, id := range []*int64{all.RunAsUser, security.RunAsUser} {
		if id != nil {
			u.UID = *id
		}
	}
	for _, id := range []*int64{all.RunAsGroup, security.RunAsGroup} {
		if id != nil {
			u.GID = *id
		}
	}
	u.Groups = all.SupplementalGroups
	if all.FSGroup != nil {
		u.Groups = append(slices.Clone(u.Groups), *all.FSGroup)
	}
	notRoot := isTrue(all.RunAsNonRoot)
	if security.RunAsNonRoot != nil {
		notRoot = *security.RunAsNonRoot
	}
	if notRoot && u.UID == 0 {
		return u, errNotRoot
	}
	return u, nil
}

// arguments: a command replaces both of what the image says, args the second.
func arguments(c *corev1.Container, image Image, env map[string]string) []string {
	var own []string
	for _, a := range slices.Concat(c.Command, c.Args) {
		own = append(own, expand(a, env))
	}
	switch {
	case len(c.Command) > 0:
		return own
	case len(c.Args) > 0:
		return slices.Concat(image.Entrypoint, own)
	}
	return slices.Concat(image.Entrypoint, image.Command)
}

// expand is what the kubelet does to commands and arguments: $(NAME) is a
// variable of the container, as it stands if there is none, and $$ is $.
func expand(text string, env map[string]string) string {
	var out strings.Builder
	for {
		before, after, found := strings.Cut(text, "$")
		out.WriteString(before)
		switch name, rest, closed := strings.Cut(after, ")"); {
		case !found:
			return out.String()
		case strings.HasPrefix(after, "$"):
			out.WriteString("$")
			text = after[1:]
		case strings.HasPrefix(after, "(") && closed:
			if value, ok := env[name[1:]]; ok {
				out.WriteString(value)
			} else {
				out.WriteString("$" + name + ")")
			}
			text = rest
		default:
			out.WriteString("$")
			text = after
		}
	}
}

func environment(c *corev1.Container, image Image) (map[string]string, error) {
	env := map[string]string{"PATH": searchPath}
	maps.Copy(env, image.Env)
	for _, e := range c.Env {
		if e.ValueFrom != nil {
			return nil, fmt.Errorf("the pod runner of the tests does not know how to set %s", e.Name)
		}
		env[e.Name] = expand(e.Value, env)
	}
	if len(c.EnvFrom) > 0 {
		return nil, fmt.Errorf("the pod runner of the tests knows no envFrom")
	}
	return env, nil
}

// mounts are those of every container, those of its image, and its volumes.
func (p *pod) mounts(c *corev1.Container, image Image) ([]mount, error) {
	out := []mount{
		{"/proc", "proc", "proc", []string{"nosuid", "noexec", "nodev"}},
		{"/dev", "tmpfs", "tmpfs", []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{"/dev/pts", "devpts", "devpts", []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}},
		{"/dev/shm", "tmpfs", "shm", []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}},
		{"/dev/mqueue", "mqueue", "mqueue", []string{"nosuid", "noexec", "nodev"}},
		{"/sys", "sysfs", "sysfs", []string{"nosuid", "noexec", "nodev", "ro"}},
	}
	for _, path := range slices.Sorted(maps.Keys(image.Binds)) {
		out = append(out, bind(path, image.Binds[path], true))
	}
	message := c.TerminationMessagePath
	if message == "" {
		message = corev1.TerminationMessagePathDefault
	}
	out = append(out,
		bind("/etc/hosts", p.path(c.Name, "hosts"), false), bind("/etc/resolv.conf", p.path(c.Name, "resolv.conf"), false),
		bind("/etc/hostname", p.path(c.Name, "hostname"), false), bind(message, p.path(c.Name, "message"), false))
	volumes := slices.Clone(c.VolumeMounts)
	slices.SortStableFunc(volumes, func(a, b corev1.VolumeMount) int { return strings.Compare(a.MountPath, b.MountPath) })
	for _, v := range volumes {
		if v.SubPathExpr != "" {
			return nil, fmt.Errorf("the pod runner of the tests knows no subPathExpr")
		}
		source, readonly := p.volume(v.Name)
		out = append(out, bind(v.MountPath, filepath.Join(source, v.SubPath), v.ReadOnly || readonly))
	}
	return out, nil
}

// volume is where one is on this machine. The kubelet mounts what it fills itself
// read-only, whatever the pod says.
func (p *pod) volume(name string) (path string, readonly bool) {
	for _, v := range p.object.Spec.Volumes {
		if v.Name != name {
			continue
		}
		if v.HostPath != nil {
			return v.HostPath.Path, false
		}
		readonly = v.EmptyDir == nil
	}
	return p.path("volumes", name), readonly
}

func bind(there, here string, readonly bool) mount {
	m := mount{there, "bind", here, []string{"rbind", "rprivate"}}
	if readonly {
		m.Options = append(m.Options, "ro")
	}
	return m
}

func isTrue(b *bool) bool { return b != nil && *b }
