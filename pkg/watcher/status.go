// SPDX-License-Identifier: Apache-2.0

package watcher

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
)

// Reasons of a Module's conditions. Degraded has the reason of a node where all
// failed nodes have the same.
const (
	reasonAllNodes    = "AllNodes"      // Ready: every node that should run it does
	reasonNoNodes     = "NoNodes"       // not Ready: no node takes part
	reasonNotAllNodes = "NotAllNodes"   // not Ready: some do not run it as it is now
	reasonRollingOut  = "RollingOut"    // Progressing: nodes are changing, or will
	reasonBuilding    = "Building"      // Progressing: an image is being made
	reasonComplete    = "Complete"      // not Progressing: no node is changing
	reasonPaused      = "RolloutPaused" // not Progressing: too many nodes have failed, the others are left as they are
	reasonUnloading   = "Unloading"     // it is being deleted, and nodes still have it
	reasonNoFailures  = "NoFailures"    // not Degraded
	reasonNodesFailed = "NodesFailed"   // Degraded: nodes have failed, for more than one reason
	reasonStuck       = "UnloadFailed"  // Degraded: a node can not unload a Module that is being deleted
	reasonPlugin      = "PluginFailed"  // Degraded: a DaemonSet or DeviceClass of the plugin could not be written
)

// moduleStatus is the status of a Module, from how it stands on its nodes. What
// went wrong in the cluster itself is in problem.
func moduleStatus(m *v1beta1.Module, r report, problem error) v1beta1.ModuleStatus {
	s := *m.Status.DeepCopy()
	s.ObservedGeneration, s.Images = m.Generation, imagesOf(r)
	if r.decided == m.Generation && allObeyed(r.needed) {
		s.ImageRebuildTriggerGeneration = m.Spec.ImageRebuildTriggerGeneration
	}
	s.ModuleLoader, s.DevicePlugin, s.DRA = v1beta1.DaemonSetStatus{}, v1beta1.DaemonSetStatus{}, v1beta1.DaemonSetStatus{}
	if m.Spec.ModuleLoader != nil {
		s.ModuleLoader = daemonSetStatus(r.selected, r.desired, r.available)
	}
	plugins := daemonSetStatus(r.selected, r.desired, r.plugins)
	if m.Spec.DevicePlugin != nil {
		s.DevicePlugin = plugins
	}
	if m.Spec.DRA != nil {
		s.DRA = plugins
	}
	for _, c := range []metav1.Condition{readyCondition(m, r), progressingCondition(m, r), degradedCondition(m, r, problem)} {
		c.ObservedGeneration = m.Generation
		meta.SetStatusCondition(&s.Conditions, c)
	}
	return s
}

// imagesOf are the images of a status, which has to have room for them in any case: without it no node is told of those that
// have been made.
func imagesOf(r report) []v1beta1.ModuleImage {
	images := slices.Clone(r.images[:min(len(r.images), maxImages)])
	for i := range images {
		images[i].Message = shorten(images[i].Message, min(maxConditionMessage, maxImageMessages/len(images)))
	}
	return images
}

func daemonSetStatus(selected, desired, available int) v1beta1.DaemonSetStatus {
	return v1beta1.DaemonSetStatus{
		NodesMatchingSelectorNumber: int32(selected), DesiredNumber: int32(desired), AvailableNumber: int32(available),
	}
}

func condition(kind string, is bool, reason, message string) metav1.Condition {
	c := metav1.Condition{Type: kind, Status: metav1.ConditionFalse, Reason: reason, Message: message}
	if is {
		c.Status = metav1.ConditionTrue
	}
	return c
}

func readyCondition(m *v1beta1.Module, r report) metav1.Condition {
	desired, available, what := r.desired, r.current, "run the module"
	if m.Spec.ModuleLoader == nil {
		available, what = r.plugins, "run the plugin"
	}
	message := fmt.Sprintf("%d of %d nodes %s", available, desired, what)
	if r.available > r.current && m.Spec.ModuleLoader != nil {
		message += fmt.Sprintf(", %d more run it as it was before", r.available-r.current)
	}
	if r.unmapped > 0 {
		message += fmt.Sprintf("; %s a kernel that no kernelMapping matches", count(r.unmapped, "node has", "nodes have"))
	}
	if r.building > 0 {
		message += fmt.Sprintf("; %s for an image", count(r.building, "waits", "wait"))
	}
	switch {
	case m.DeletionTimestamp != nil:
		return condition(v1beta1.ConditionReady, false, reasonUnloading, "the Module is being deleted")
	case r.telling:
		return condition(v1beta1.ConditionReady, false, reasonNotAllNodes, "not all nodes have been told of the change")
	case r.leftover > 0:
		return condition(v1beta1.ConditionReady, false, reasonNotAllNodes, message+"; "+count(r.leftover, "node has", "nodes have")+
			" not unloaded the module yet"+named(r.unloading, r.leftover)+", which the Module does not ask for any more")
	case desired == 0:
		return condition(v1beta1.ConditionReady, false, reasonNoNodes, message)
	case available == desired && toBeMade(m, r) != "":
		return condition(v1beta1.ConditionReady, false, reasonNotAllNodes, message+"; "+toBeMade(m, r))
	case available == desired:
		return condition(v1beta1.ConditionReady, true, reasonAllNodes, message)
	}
	return condition(v1beta1.ConditionReady, false, reasonNotAllNodes, message)
}

func progressingCondition(m *v1beta1.Module, r report) metav1.Condition {
	switch {
	case m.DeletionTimestamp != nil:
		return condition(v1beta1.ConditionProgressing, true, reasonUnloading, unloadingMessage(r))
	case r.untold > 0:
		return condition(v1beta1.ConditionProgressing, true, reasonRollingOut, fmt.Sprintf("%s, %s not been told of the change",
			changing(r), count(r.untold, "has", "have")))
	case r.telling:
		return condition(v1beta1.ConditionProgressing, true, reasonRollingOut, "nodes are about to be told of the change")
	case r.paused:
		return condition(v1beta1.ConditionProgressing, false, reasonPaused, fmt.Sprintf(
			"%s; %s. Change the Module, or mend the nodes, and it goes on",
			count(r.failedTotal, "node has failed", "nodes have failed"), count(r.held, "node was not begun", "nodes were not begun")))
	case r.begun > 0 || r.held > 0:
		return condition(v1beta1.ConditionProgressing, true, reasonRollingOut, fmt.Sprintf(
			"%s, %s", changing(r), count(r.held, "waits", "wait")))
	case building(r.needed) != "":
		return condition(v1beta1.ConditionProgressing, true, reasonBuilding, building(r.needed))
	}
	return condition(v1beta1.ConditionProgressing, false, reasonComplete, "no node is changing")
}

// changing names nodes that are, too: the others may wait for one that is off.
func changing(r report) string {
	return count(r.begun, "node is changing", "nodes are changing") + named(r.changing, r.begun)
}

// named gives the first of so many nodes, in parentheses, "" where no name is known.
func named(first []string, of int) string {
	names := strings.Join(first, ", ")
	if names == "" {
		return ""
	}
	if more := of - len(first); more > 0 {
		names += fmt.Sprintf(" and %d more", more)
	}
	return " (" + names + ")"
}

func degradedCondition(m *v1beta1.Module, r report, problem error) metav1.Condition {
	switch {
	case problem != nil:
		return condition(v1beta1.ConditionDegraded, true, reasonPlugin, shorten(problem.Error(), maxConditionMessage))
	case m.DeletionTimestamp != nil && r.failedTotal > 0:
		return condition(v1beta1.ConditionDegraded, true, reasonStuck, unloadingMessage(r))
	case notMade(r.needed) != "":
		return condition(v1beta1.ConditionDegraded, true, notMadeReason(r.needed), notMade(r.needed))
	case r.mixed: // also where those that the message names have the same
		return condition(v1beta1.ConditionDegraded, true, reasonNodesFailed, failures(r.failed, r.failedTotal))
	case r.failedTotal > 0:
		return condition(v1beta1.ConditionDegraded, true, commonReason(r.failed), failures(r.failed, r.failedTotal))
	}
	return condition(v1beta1.ConditionDegraded, false, reasonNoFailures, "no node has failed")
}

// unloadingMessage names the nodes that a deleted Module waits for.
func unloadingMessage(r report) string {
	if r.presentTotal == 0 {
		return "no node has it any more"
	}
	return "waiting for " + failures(r.present, r.presentTotal)
}

// maxImageMessages bounds the messages of all images together, in bytes; etcd takes objects of 1.5 MiB
// (etcd's --max-request-bytes).
const maxImageMessages = 512 << 10

// maxConditionMessage bounds a message, in bytes; the API server takes 32768.
const maxConditionMessage = 4096

// failures names nodes and what each says.
func failures(named []standingOn, total int) string {
	var parts []string
	for _, s := range named {
		switch {
		case s.reason != "" && s.message == "":
			parts = append(parts, s.node+": "+s.reason)
		case s.reason != "":
			parts = append(parts, fmt.Sprintf("%s: %s: %s", s.node, s.reason, s.message))
		default:
			parts = append(parts, s.node+": not unloaded yet")
		}
	}
	if more := total - len(named); more > 0 {
		parts = append(parts, fmt.Sprintf("and %d more", more))
	}
	return shorten(strings.Join(parts, "; "), maxConditionMessage)
}

// commonReason is the one that all have, or a word for several.
func commonReason(failed []standingOn) string {
	reason := ""
	for _, s := range failed {
		if reason != "" && s.reason != reason {
			return reasonNodesFailed
		}
		reason = s.reason
	}
	if reason == "" {
		return reasonNodesFailed
	}
	return reason
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
