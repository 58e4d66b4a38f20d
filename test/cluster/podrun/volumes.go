// SPDX-License-Identifier: Apache-2.0

package podrun

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// makeVolumes makes the directories of all volumes. It may be tried again.
func (p *pod) makeVolumes() error {
	if err := os.RemoveAll(p.path("volumes")); err != nil {
		return err
	}
	for _, v := range p.object.Spec.Volumes {
		if err := p.makeVolume(v); err != nil {
			return fmt.Errorf("MountVolume.SetUp failed for volume %q : %w", v.Name, err)
		}
	}
	return nil
}

func (p *pod) makeVolume(v corev1.Volume) error {
	dir := p.path("volumes", v.Name)
	switch {
	case v.EmptyDir != nil:
		return p.makeDir(dir, 0o777)
	case v.HostPath != nil:
		if info, err := os.Stat(v.HostPath.Path); err != nil || !info.IsDir() {
			return fmt.Errorf("hostPath type check failed: %s is not a directory", v.HostPath.Path)
		}
		return nil
	}
	content, mode, err := p.content(v)
	if err != nil {
		return err
	}
	return p.fill(dir, content, mode)
}

// content is what a volume of the API's objects has.
func (p *pod) content(v corev1.Volume) (content map[string][]byte, mode *int32, err error) {
	switch {
	case v.Secret != nil:
		content, err = p.secret(v.Secret.SecretName, v.Secret.Items, v.Secret.Optional)
		return content, v.Secret.DefaultMode, err
	case v.ConfigMap != nil:
		content, err = p.configMap(v.ConfigMap.Name, v.ConfigMap.Items, v.ConfigMap.Optional)
		return content, v.ConfigMap.DefaultMode, err
	case v.Projected != nil:
		content = map[string][]byte{}
		for _, s := range v.Projected.Sources {
			part := corev1.Volume{}
			switch {
			case s.Secret != nil:
				part.Secret = &corev1.SecretVolumeSource{SecretName: s.Secret.Name, Items: s.Secret.Items, Optional: s.Secret.Optional}
			case s.ConfigMap != nil:
				part.ConfigMap = &corev1.ConfigMapVolumeSource{
					LocalObjectReference: s.ConfigMap.LocalObjectReference, Items: s.ConfigMap.Items, Optional: s.ConfigMap.Optional,
				}
			}
			more, _, err := p.content(part)
			if err != nil {
				return nil, nil, err
			}
			maps.Copy(content, more)
		}
		return content, v.Projected.DefaultMode, nil
	}
	return nil, nil, fmt.Errorf("the pod runner of the tests knows no such kind")
}

func (p *pod) secret(name string, items []corev1.KeyToPath, optional *bool) (map[string][]byte, error) {
	s, err := p.runner.client.CoreV1().Secrets(p.object.Namespace).Get(p.ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) && optional != nil && *optional {
		return map[string][]byte{}, nil
	}
	if err != nil {
		return nil, err
	}
	return choose(s.Data, items, optional)
}

func (p *pod) configMap(name string, items []corev1.KeyToPath, optional *bool) (map[string][]byte, error) {
	c, err := p.runner.client.CoreV1().ConfigMaps(p.object.Namespace).Get(p.ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) && optional != nil && *optional {
		return map[string][]byte{}, nil
	}
	if err != nil {
		return nil, err
	}
	data := maps.Clone(c.BinaryData)
	if data == nil {
		data = map[string][]byte{}
	}
	for key, value := range c.Data {
		data[key] = []byte(value)
	}
	return choose(data, items, optional)
}

// choose takes what items name, or all.
func choose(data map[string][]byte, items []corev1.KeyToPath, optional *bool) (map[string][]byte, error) {
	if len(items) == 0 {
		return data, nil
	}
	out := map[string][]byte{}
	for _, item := range items {
		value, ok := data[item.Key]
		if !ok && (optional == nil || !*optional) {
			return nil, fmt.Errorf("references non-existent secret key: %s", item.Key)
		}
		if ok {
			out[item.Path] = value
		}
	}
	return out, nil
}

// fill makes a directory as the kubelet's atomic writer does: the files are in a
// directory with a date for a name, to which ..data points, and what the pod uses
// are links through that.
func (p *pod) fill(dir string, content map[string][]byte, mode *int32) error {
	const dated = "..2026_01_02_03_04_05.678901234"
	if err := p.makeDir(filepath.Join(dir, dated), 0o755); err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	if err := os.Symlink(dated, filepath.Join(dir, "..data")); err != nil {
		return err
	}
	for path, value := range content {
		file := filepath.Join(dir, dated, path)
		permissions := os.FileMode(0o644)
		if mode != nil {
			permissions = os.FileMode(*mode)
		}
		if p.group() != nil {
			permissions |= 0o440
		}
		if err := writeFile(file, value, permissions); err != nil {
			return err
		}
		if err := p.giveToGroup(file); err != nil {
			return err
		}
		top, _, _ := strings.Cut(path, "/")
		if err := os.Symlink(filepath.Join("..data", top), filepath.Join(dir, top)); err != nil && !os.IsExist(err) {
			return err
		}
	}
	return nil
}

func (p *pod) makeDir(dir string, mode os.FileMode) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if p.group() != nil {
		mode |= os.ModeSetgid | 0o070
	}
	if err := p.giveToGroup(dir); err != nil {
		return err
	}
	return os.Chmod(dir, mode)
}

// group is the fsGroup.
func (p *pod) group() *int64 {
	if context := p.object.Spec.SecurityContext; context != nil {
		return context.FSGroup
	}
	return nil
}

func (p *pod) giveToGroup(path string) error {
	if p.group() == nil {
		return nil
	}
	return os.Chown(path, -1, int(*p.group()))
}
