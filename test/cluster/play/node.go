// SPDX-License-Identifier: Apache-2.0

package play

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"
)

// Node is a node to play. Empty fields get values such as Debian's.
type Node struct {
	Name   string
	Labels map[string]string // besides kubernetes.io/hostname, /os and /arch
	Taints []corev1.Taint
	BootID string // empty: made up
	Kernel string // uname -r
}

// The kernel of a node that does not say.
const defaultKernel = "6.1.0-56-cloud-amd64"

// AddNodes creates Node objects that are Ready, many at a time, and plays them from
// now on. A Node that exists gets the state as of a new boot, and keeps its labels
// and taints.
func (p *Player) AddNodes(ctx context.Context, nodes ...Node) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(workers)
	for _, n := range nodes {
		group.Go(func() error { return p.addNode(ctx, n) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for _, n := range nodes {
		p.Resume(n.Name)
	}
	return nil
}

func (p *Player) addNode(ctx context.Context, n Node) error {
	if n.Kernel == "" {
		n.Kernel = defaultKernel
	}
	if n.BootID == "" {
		n.BootID = newBootID()
	}
	object := n.object()
	_, err := p.client.CoreV1().Nodes().Create(ctx, object, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return p.patchNode(ctx, n.Name, object.Status)
	}
	if err != nil {
		return fmt.Errorf("create node %s: %w", n.Name, err)
	}
	return nil
}

// RemoveNodes stops playing nodes and deletes their objects.
func (p *Player) RemoveNodes(ctx context.Context, names ...string) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(workers)
	for _, name := range names {
		group.Go(func() error {
			err := p.client.CoreV1().Nodes().Delete(ctx, name, metav1.DeleteOptions{})
			if err != nil && !apierrors.IsNotFound(err) {
				return fmt.Errorf("delete node %s: %w", name, err)
			}
			p.mu.Lock()
			defer p.mu.Unlock()
			delete(p.nodes, name)
			return nil
		})
	}
	return group.Wait()
}

// Reboot makes the node's object have a new boot id and kernel, empty: a made-up
// one, the same one. It returns the boot id. Pods stay as they are.
func (p *Player) Reboot(ctx context.Context, name, bootID, kernel string) (string, error) {
	if bootID == "" {
		bootID = newBootID()
	}
	info := map[string]string{"bootID": bootID}
	if kernel != "" {
		info["kernelVersion"] = kernel
	}
	return bootID, p.patchNode(ctx, name, map[string]any{"nodeInfo": info})
}

// SetNodeReady changes the Ready condition of a node.
func (p *Player) SetNodeReady(ctx context.Context, name string, ready bool) error {
	return p.patchNode(ctx, name, map[string]any{"conditions": conditions(ready)})
}

func (p *Player) patchNode(ctx context.Context, name string, status any) error {
	patch, err := json.Marshal(map[string]any{"status": status})
	if err != nil {
		return fmt.Errorf("patch node %s: %w", name, err)
	}
	if _, err := p.client.CoreV1().Nodes().Patch(ctx, name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status"); err != nil {
		return fmt.Errorf("patch node %s: %w", name, err)
	}
	return nil
}

func (n Node) object() *corev1.Node {
	labels := map[string]string{corev1.LabelHostname: n.Name, corev1.LabelOSStable: "linux", corev1.LabelArchStable: "amd64"}
	maps.Copy(labels, n.Labels)
	size := corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("16"), corev1.ResourceMemory: resource.MustParse("64Gi"),
		corev1.ResourceEphemeralStorage: resource.MustParse("100Gi"), corev1.ResourcePods: resource.MustParse("250"),
	}
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: n.Name, Labels: labels},
		Spec:       corev1.NodeSpec{Taints: n.Taints},
		Status: corev1.NodeStatus{
			Capacity: size, Allocatable: size, Conditions: conditions(true),
			Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "127.0.0.1"}, {Type: corev1.NodeHostName, Address: n.Name}},
			NodeInfo: corev1.NodeSystemInfo{
				BootID: n.BootID, KernelVersion: n.Kernel, MachineID: n.Name, SystemUUID: n.Name,
				OSImage: "Debian GNU/Linux 12 (bookworm)", OperatingSystem: "linux", Architecture: "amd64",
				ContainerRuntimeVersion: "played://1", KubeletVersion: "v1.37.2",
			},
		},
	}
}

func conditions(ready bool) []corev1.NodeCondition {
	now := metav1.Now()
	condition := func(kind corev1.NodeConditionType, value bool, reason string) corev1.NodeCondition {
		return corev1.NodeCondition{Type: kind, Status: conditionStatus(value), Reason: reason, LastHeartbeatTime: now, LastTransitionTime: now}
	}
	reason := "KubeletReady"
	if !ready {
		reason = "KubeletNotReady"
	}
	return []corev1.NodeCondition{
		condition(corev1.NodeMemoryPressure, false, "KubeletHasSufficientMemory"),
		condition(corev1.NodeDiskPressure, false, "KubeletHasNoDiskPressure"),
		condition(corev1.NodePIDPressure, false, "KubeletHasSufficientPID"),
		condition(corev1.NodeReady, ready, reason),
	}
}

// newBootID is one as in /proc/sys/kernel/random/boot_id.
func newBootID() string { return string(uuid.NewUUID()) }
