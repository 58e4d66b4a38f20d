// SPDX-License-Identifier: Apache-2.0

package watcher

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
)

// Reasons of Events on Nodes.
const (
	ReasonModuleLoaded       = "ModuleLoaded"       // the kernel runs what Modules ask for; the message names them
	ReasonModuleUnloaded     = "ModuleUnloaded"     // what was loaded for Modules is out of the kernel
	ReasonModuleLoadFailed   = "ModuleLoadFailed"   // a Module is not loaded; the message begins with the node's reason
	ReasonModuleUnloadFailed = "ModuleUnloadFailed" // a Module is still in the kernel; the message begins with the node's reason
)

const (
	// maxEventMessage is what events.k8s.io takes as a note, in bytes.
	maxEventMessage = 1024
	// maxModuleList leaves room for words around it.
	maxModuleList = 800
	// maxEventName is that of a DNS subdomain, as every object's.
	maxEventName = 253
	ellipsis     = "…"
)

// NodeEvent is an Event on a Node: a warning when its reason ends in Failed. It
// has one name for one key, so creating the same one again gets AlreadyExists,
// also from a watcher that was restarted; key is what tells this occurrence from
// others with that reason on that node. The message is cut when it is too long.
//
// kubectl describe finds Events of a Node by its UID, or by its name in the
// place of that, as kubelets write them. With the UID, a Node that was made
// anew does not show what happened to the one before it.
func NodeEvent(node *corev1.Node, reason, key, message string, now time.Time) *corev1.Event {
	return event(corev1.ObjectReference{
		APIVersion: "v1",
		Kind:       "Node",
		Name:       node.Name,
		UID:        node.UID,
	}, reason, key, message, now)
}

// ModuleEvent is an Event on a Module, in its namespace; otherwise as NodeEvent.
func ModuleEvent(m *v1beta1.Module, reason, key, message string, now time.Time) *corev1.Event {
	return event(corev1.ObjectReference{
		APIVersion: v1beta1.GroupVersion.String(),
		Kind:       "Module",
		Namespace:  m.Namespace,
		Name:       m.Name,
		UID:        m.UID,
	}, reason, key, message, now)
}

// ModuleList is "ns/a, ns/b" for one Event about several Modules: sorted, each
// once, and with a count in place of those that would make it too long.
func ModuleList(keys []string) string {
	keys = slices.Compact(slices.Sorted(slices.Values(keys)))
	if all := strings.Join(keys, ", "); len(all) <= maxModuleList {
		return all
	}
	n, length := 0, 0
	for n < len(keys) && length+len(keys[n]) <= maxModuleList {
		length += len(keys[n]) + len(", ")
		n++
	}
	if n == 0 {
		return fmt.Sprintf("%d modules", len(keys))
	}
	return fmt.Sprintf("%s and %d more", strings.Join(keys[:n], ", "), len(keys)-n)
}

func event(about corev1.ObjectReference, reason, key, message string, now time.Time) *corev1.Event {
	namespace := about.Namespace
	if namespace == "" {
		namespace = metav1.NamespaceDefault // where the API server wants Events of cluster-scoped objects
	}
	kind := corev1.EventTypeNormal
	if strings.HasSuffix(reason, "Failed") {
		kind = corev1.EventTypeWarning
	}
	at := metav1.NewTime(now)
	return &corev1.Event{
		ObjectMeta:          metav1.ObjectMeta{Namespace: namespace, Name: eventName(about, reason, key)},
		InvolvedObject:      about,
		Type:                kind,
		Reason:              reason,
		Message:             shorten(message, maxEventMessage),
		FirstTimestamp:      at,
		LastTimestamp:       at,
		Count:               1,
		Source:              corev1.EventSource{Component: managedBy},
		ReportingController: managedBy,
	}
}

// eventName begins with the object's, as everyone's do: worker-1.1f2e3d4c5b6a7988
func eventName(about corev1.ObjectReference, reason, key string) string {
	sum := sha256.Sum256([]byte(strings.Join([]string{string(about.UID), reason, key}, "\x00")))
	suffix := "." + hex.EncodeToString(sum[:8])
	name := about.Name
	if room := maxEventName - len(suffix); len(name) > room {
		name = strings.TrimRight(name[:room], "-.")
	}
	return name + suffix
}

// shorten to so many bytes between two characters. The words of a kernel need
// not be UTF-8, which an API server insists on.
func shorten(s string, limit int) string {
	s = strings.ToValidUTF8(s, string(utf8.RuneError))
	if len(s) <= limit {
		return s
	}
	end := limit - len(ellipsis)
	for end > 0 && !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + ellipsis
}
