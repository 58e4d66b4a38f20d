// SPDX-License-Identifier: Apache-2.0

// Package page is how Modules and nodes are shown to people: in a browser, as
// HTML without scripts, and on a terminal. It turns facts into tables whose size
// does not grow with the number of nodes. It is pure: it reads nothing, and knows
// neither sockets nor the cluster.
package page

import (
	"errors"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
	"github.com/kmm-node/kmmd/pkg/api/v1beta2"
)

// ErrNoModule is said of a Module that is not there.
var ErrNoModule = errors.New("there is no such Module")

// Cluster is what is known at one moment. It is also what programs are given, as
// JSON.
type Cluster struct {
	At    time.Time `json:"at"`
	Nodes int       `json:"nodes"` // of the cluster, with Modules and without
	// Modules are sorted by namespace and name.
	Modules []Module `json:"modules"`
	// Validations are sorted by name.
	Validations []Validation `json:"preflightValidations,omitempty"`
}

// Module is one Module with the nodes that it has to do with.
type Module struct {
	Namespace string   `json:"namespace"`
	Name      string   `json:"name"`
	Deleting  bool     `json:"deleting,omitempty"` // or gone, while nodes still have it
	Rollout   *Rollout `json:"rollout,omitempty"`  // nil: all nodes at once
	// Conditions as its status has them, which may be some seconds old.
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// Images that the cluster makes, by kernel.
	Images []v1beta1.ModuleImage `json:"images,omitempty"`
	// Nodes are sorted by name.
	Nodes []Node `json:"nodes"`
}

// Rollout is how many nodes may change at a time.
type Rollout struct {
	MaxUnavailable  string `json:"maxUnavailable,omitempty"`
	PauseOnFailures int    `json:"pauseOnFailures,omitempty"`
}

// Node is how a Module stands on one node.
type Node struct {
	Name    string    `json:"name"`
	Kernel  string    `json:"kernel,omitempty"`
	State   State     `json:"state"`
	Reason  string    `json:"reason,omitempty"`
	Message string    `json:"message,omitempty"`
	Version string    `json:"version,omitempty"`
	Since   time.Time `json:"since,omitzero"` // zero: not known
}

// Validation is a PreflightValidation.
type Validation struct {
	Name       string                                    `json:"name"`
	Kernel     string                                    `json:"kernel"`
	Conditions []metav1.Condition                        `json:"conditions,omitempty"`
	Modules    []v1beta2.PreflightValidationModuleStatus `json:"modules,omitempty"`
}

// State is how a Module stands on a node, in one word.
type State string

// How nodes stand, on the status page and in kmm-watcher status.
const (
	Failed   State = "Failed"    // said why not, by a reason
	Leaving  State = "Leaving"   // is not to run it any more, and still has it
	Changing State = "Changing"  // has been told, or is about to be, and has not answered
	Building State = "Building"  // waits for an image that the cluster makes
	Waiting  State = "Waiting"   // waits for its turn in a rollout
	Unmapped State = "NoMapping" // has a kernel that no kernelMapping matches
	Older    State = "Older"     // runs it in another version, as its label says
	Excluded State = "Excluded"  // is selected, but a taint or its version label keeps away what the Module is now
	Loaded   State = "Loaded"    // runs it; of a Module with a plugin only: the plugin's pod is ready
)

// states in the order in which people want to hear of them.
var states = [...]State{Failed, Leaving, Changing, Building, Waiting, Unmapped, Older, Excluded, Loaded}

// rank is the place in states.
func (s State) rank() int {
	for i, known := range states {
		if s == known {
			return i
		}
	}
	return -1 // one that is not known is shown first
}

// wanted reports whether the node is one that should run the Module.
func (s State) wanted() bool { return s != Leaving && s != Unmapped && s != Excluded }

// Key is "namespace/name".
func (m *Module) Key() string { return m.Namespace + "/" + m.Name }

// condition of a kind; a zero one when there is none.
func condition(all []metav1.Condition, kind string) metav1.Condition {
	for _, c := range all {
		if c.Type == kind {
			return c
		}
	}
	return metav1.Condition{}
}
