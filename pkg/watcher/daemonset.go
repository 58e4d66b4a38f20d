// SPDX-License-Identifier: Apache-2.0

package watcher

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	appsv1ac "k8s.io/client-go/applyconfigurations/apps/v1"
	corev1ac "k8s.io/client-go/applyconfigurations/core/v1"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
)

const (
	// moduleVersionLabel is on a plugin's DaemonSet and pods, with the version of
	// the Module that they are for; its value is empty when there is none, so that
	// no two DaemonSets of a Module select each other's pods.
	moduleVersionLabel = v1beta1.LabelPrefix + "module.version"

	// maxObjectName keeps names short enough for the value of a label.
	maxObjectName = 63
)

// DaemonSets are the DaemonSets of a Module's plugins, to be applied on the
// server's side: none, or the one of its device plugin or DRA driver. Each
// version of a Module has its own, so that nodes still at an older version keep
// their plugin while others change; the one of an older version is not among
// the result, and stays as it was made.
//
// Name, labels and selector depend on the Module's name and version and on the
// role, never on anything else, as a selector can not be changed. At most one of
// a Module's DaemonSets chooses a given node.
//
// What the Module says about the plugin's pod comes first: see podSpec.
func DaemonSets(m *v1beta1.Module) ([]*appsv1ac.DaemonSetApplyConfiguration, error) {
	var all []*appsv1ac.DaemonSetApplyConfiguration
	for _, p := range plugins(m) {
		ds := &appsv1ac.DaemonSetApplyConfiguration{}
		if err := convert(daemonSet(m, p), ds); err != nil {
			return nil, fmt.Errorf("make %s DaemonSet of %s/%s: %w", p.role, m.Namespace, m.Name, err)
		}
		// What nobody asked for is left to the server's defaults and to others.
		ds.Status, ds.Spec.UpdateStrategy = nil, nil
		pod := ds.Spec.Template.Spec
		sayExactly(pod.InitContainers)
		sayExactly(pod.Containers)
		all = append(all, ds)
	}
	return all, nil
}

// DaemonSetVersion is the version of the Module that a plugin's DaemonSet or pod
// is for, from its labels; empty when the Module had none.
func DaemonSetVersion(labels map[string]string) string {
	return labels[moduleVersionLabel]
}

// Role is v1beta1.RoleDevicePlugin or v1beta1.RoleDRA, from the labels of a
// plugin's DaemonSet or pod, and empty for everything else.
func Role(labels map[string]string) string {
	switch role := labels[v1beta1.RoleLabel]; role {
	case v1beta1.RoleDevicePlugin, v1beta1.RoleDRA:
		return role
	default:
		return ""
	}
}

// ModuleOf says which Module an object was made for, from its labels. Labels
// are a hint to look there and no proof: anyone can set them, see OwnedBy.
func ModuleOf(o metav1.Object) (namespace, name string, ok bool) {
	name, ok = o.GetLabels()[v1beta1.ModuleNameLabel]
	if !ok || name == "" {
		return "", "", false
	}
	namespace, ok = o.GetLabels()[v1beta1.ModuleNamespaceLabel]
	if !ok {
		namespace = o.GetNamespace() // made by the KMM operator
	}
	if namespace == "" || o.GetNamespace() != "" && o.GetNamespace() != namespace {
		return "", "", false
	}
	return namespace, name, true
}

// OwnedBy says whether the Module, and not another one that once had its name,
// is the controller of an object in its namespace.
func OwnedBy(o metav1.Object, m *v1beta1.Module) bool {
	return o.GetNamespace() == m.Namespace && metav1.IsControlledBy(o, m)
}

func daemonSet(m *v1beta1.Module, p plugin) *appsv1.DaemonSet {
	labels := map[string]string{
		v1beta1.ModuleNameLabel:      m.Name,
		v1beta1.ModuleNamespaceLabel: m.Namespace,
		v1beta1.RoleLabel:            p.role,
		moduleVersionLabel:           moduleVersion(m),
	}
	return &appsv1.DaemonSet{
		TypeMeta: metav1.TypeMeta{APIVersion: appsv1.SchemeGroupVersion.String(), Kind: "DaemonSet"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace:       m.Namespace,
			Name:            daemonSetName(m.Name, p.role, moduleVersion(m)),
			Labels:          labels,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(m, v1beta1.GroupVersion.WithKind("Module"))},
		},
		Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: podTemplate(m, p, labels),
		},
	}
}

// moduleVersion is empty for a Module without one.
func moduleVersion(m *v1beta1.Module) string {
	if m.Spec.ModuleLoader == nil {
		return ""
	}
	return m.Spec.ModuleLoader.Container.Version
}

// daemonSetName is unique in a namespace. A Module's name is at most 40 bytes
// long, which just fits; a longer one is cut.
func daemonSetName(module, role, version string) string {
	suffix := "-" + role
	if version != "" {
		suffix += "-" + shortHash(version)
	}
	if room := maxObjectName - len(suffix); len(module) > room {
		h := "-" + shortHash(module)
		module = strings.TrimRight(module[:room-len(h)], "-.") + h
	}
	return module + suffix
}

func shortHash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:4])
}

// convert fills an apply configuration from the typed object of the same kind:
// they have the same JSON.
func convert(from, to any) error {
	text, err := json.Marshal(from)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, to)
}

// sayExactly has containers say what the typed ones can not: no resources at
// all, and a variable that is empty, so that nobody else gives it a value.
func sayExactly(containers []corev1ac.ContainerApplyConfiguration) {
	for i := range containers {
		c := &containers[i]
		if c.Resources != nil && reflect.ValueOf(*c.Resources).IsZero() {
			c.Resources = nil
		}
		for j := range c.Env {
			if c.Env[j].ValueFrom == nil && c.Env[j].Value == nil {
				c.Env[j].WithValue("")
			}
		}
	}
}
