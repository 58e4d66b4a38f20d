// SPDX-License-Identifier: Apache-2.0

package watcher

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kmm-node/kmmd/pkg/api/v1beta1"
	"github.com/kmm-node/kmmd/pkg/build"
)

// Reasons of Events on Modules about images that the cluster makes. Degraded has
// them too, of what failed. Those of the KMM operator have the same names.
const (
	ReasonBuildCreated   = "BuildCreated"   // a Job was made that builds an image
	ReasonBuildSucceeded = "BuildSucceeded" // an image was built and pushed
	ReasonBuildFailed    = "BuildFailed"    // an image could not be built
	ReasonSignCreated    = "SignCreated"    // a Job was made that signs an image
	ReasonSignSucceeded  = "SignSucceeded"  // an image was signed and pushed
	ReasonSignFailed     = "SignFailed"     // an image could not be signed
	reasonPushFailed     = "PushFailed"     // an image was made, and the registry did not take it
	reasonRegistryFailed = "RegistryFailed" // the registry could not be asked whether the image is there
)

// building says what images are being made, "" when none is.
func building(images []v1beta1.ModuleImage) string {
	var parts []string
	for i := range images {
		if images[i].State == v1beta1.ImageBuilding {
			parts = append(parts, fmt.Sprintf("%s for kernel %s (Job %s): %s", images[i].Image, images[i].Kernel, images[i].Job, images[i].Message))
		}
	}
	return several("making ", parts)
}

// notMade says which images could not be made and why, "" when there is none.
func notMade(images []v1beta1.ModuleImage) string {
	var parts []string
	for i := range images {
		if images[i].State != v1beta1.ImageFailed {
			continue
		}
		text := fmt.Sprintf("%s for kernel %s: %s: %s", images[i].Image, images[i].Kernel, images[i].Reason, images[i].Message)
		if at := images[i].RetryAt; at != nil {
			text += "; next attempt at " + at.UTC().Format(time.RFC3339)
		}
		parts = append(parts, text)
	}
	return several("", parts)
}

func several(before string, parts []string) string {
	if len(parts) == 0 {
		return ""
	}
	text := before + strings.Join(parts[:min(len(parts), maxNamed)], "; ")
	if more := len(parts) - maxNamed; more > 0 {
		text += fmt.Sprintf("; and %d more", more)
	}
	return shorten(text, maxConditionMessage)
}

// notMadeReason is that of the first image that could not be made.
func notMadeReason(images []v1beta1.ModuleImage) string {
	for i := range images {
		if images[i].State == v1beta1.ImageFailed {
			return failedReason(&images[i])
		}
	}
	return ReasonBuildFailed
}

func failedReason(i *v1beta1.ModuleImage) string {
	switch i.Stage {
	case stageSign:
		return ReasonSignFailed
	case stagePush:
		return reasonPushFailed
	case stageRegistry:
		return reasonRegistryFailed
	}
	return ReasonBuildFailed
}

// allObeyed reports whether nothing is left to be made.
func allObeyed(images []v1beta1.ModuleImage) bool {
	for i := range images {
		if images[i].State != v1beta1.ImageReady {
			return false
		}
	}
	return true
}

// toBeMade says why nodes do not have the images that a Module asks for now, though
// they have what they were told, "" when they have them.
//
// A Watcher that has just begun has not looked yet. What is Ready, as the Module is now,
// stays so until it has: who was before it had looked.
func toBeMade(m *v1beta1.Module, r report) string {
	was := meta.FindStatusCondition(m.Status.Conditions, v1beta1.ConditionReady)
	known := r.decided == m.Generation || was != nil && was.Status == metav1.ConditionTrue && was.ObservedGeneration == m.Generation
	switch {
	case !makesImages(m):
		return ""
	case !known:
		return "whether images have to be made is not known yet"
	case r.decided != m.Generation:
		return "" // nor is it which of the images in the status a node needs
	case slices.ContainsFunc(r.needed, func(i v1beta1.ModuleImage) bool { return i.State == v1beta1.ImageBuilding }):
		return "an image that nodes need is being made"
	case slices.ContainsFunc(r.needed, func(i v1beta1.ModuleImage) bool { return i.State == v1beta1.ImageFailed && i.Digest != "" }):
		return "an image could not be made anew, nodes have the one before it" // between two attempts, too
	}
	return ""
}

// imageEvents are for what changes from one state of an image to the next.
func imageEvents(m *v1beta1.Module, r *build.Request, was, now v1beta1.ModuleImage, at time.Time) []*corev1.Event {
	same := was.State == now.State && was.Hash == now.Hash && was.Attempts == now.Attempts && was.Reason == now.Reason
	if same || now.Job == "" && now.State != v1beta1.ImageFailed {
		return nil // an image that was found is no news
	}
	text := fmt.Sprintf("%s for kernel %s", now.Image, now.Kernel)
	if now.Job != "" {
		text += ", Job " + now.Job
	}
	var reasons []string
	both := func(build, sign string) {
		if r.Build != nil {
			reasons = append(reasons, build)
		}
		if r.Sign != nil {
			reasons = append(reasons, sign)
		}
	}
	switch now.State {
	case v1beta1.ImageBuilding:
		both(ReasonBuildCreated, ReasonSignCreated)
	case v1beta1.ImageReady:
		both(ReasonBuildSucceeded, ReasonSignSucceeded)
		text += ": " + now.Digest
	case v1beta1.ImageFailed:
		reasons = append(reasons, failedReason(&now))
		text += ": " + now.Reason + ": " + now.Message
	}
	what := fmt.Sprintf("%s %s %s %d", now.Kernel, now.Hash, now.State, now.Attempts)
	var out []*corev1.Event
	for _, reason := range reasons {
		out = append(out, ModuleEvent(m, reason, what, tail(text, maxEventMessage), at))
	}
	return out
}

// tail keeps the beginning and, of what is too long, the end: the last lines of a
// log say what went wrong.
func tail(text string, limit int) string {
	if text = strings.ToValidUTF8(text, string(utf8.RuneError)); len(text) <= limit {
		return text
	}
	head := limit / 4
	rest := strings.ToValidUTF8(text[len(text)-(limit-head-len(ellipsis)-3):], "")
	return shorten(text[:head], head) + " " + rest
}
