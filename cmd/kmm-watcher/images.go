// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"

	"github.com/kmm-node/kmmd/pkg/build"
	"github.com/kmm-node/kmmd/pkg/images"
	"github.com/kmm-node/kmmd/pkg/watcher"
)

// imageFlags are how images are built and signed.
type imageFlags struct {
	build.Options
	retry          time.Duration
	pullPolicy     string
	userNamespaces bool
}

func (o *imageFlags) register(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.Builder, "builder", build.Kaniko, "what builds images: kaniko, or buildah, which needs pods with CAP_SYS_ADMIN")
	f.StringVar(&o.BuilderImage, "builder-image", "", "image of the builder (default: "+build.KanikoImage+", or "+build.BuildahImage+")")
	f.StringVar(&o.OurImage, "agent-image", "", "image of kmmd, which signs, pushes and checks in the same pods (default: that of DaemonSet kmmd beside us)")
	f.StringVar(&o.pullPolicy, "build-pull-policy", "", "imagePullPolicy of both: Always, IfNotPresent or Never (default: the cluster's)")
	f.DurationVar(&o.Deadline, "build-deadline", time.Hour, "how long a Job that builds or signs may take")
	f.DurationVar(&o.Keep, "build-keep", 24*time.Hour, "how long a finished Job is kept")
	f.DurationVar(&o.retry, "build-retry", time.Minute, "how long after the first failure an image is tried again; after each further one twice as long, up to an hour")
	f.BoolVar(&o.userNamespaces, "build-user-namespaces", false, "build in user namespaces, where root is nobody on the node; its kernel has to be 6.3 or newer")
}

// config checks the flags.
func (o *imageFlags) config(namespace string) (watcher.ImageConfig, error) {
	c := watcher.ImageConfig{Options: o.Options, Retry: o.retry, Lookup: lookup}
	c.ImagePullPolicy = corev1.PullPolicy(o.pullPolicy)
	switch c.ImagePullPolicy {
	case "", corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever:
	default:
		return c, usageError{fmt.Errorf("--build-pull-policy %q: Always, IfNotPresent or Never", o.pullPolicy)}
	}
	if o.retry <= 0 {
		return c, usageError{fmt.Errorf("--build-retry %v: more than nothing is needed", o.retry)}
	}
	if o.userNamespaces {
		no := false
		c.HostUsers = &no
	}
	check := c.Options
	if check.OurImage == "" {
		c.AgentDaemonSet, check.OurImage = namespace+"/kmmd", "kmmd"
	}
	if err := check.Check(); err != nil {
		return c, usageError{fmt.Errorf("flags of builds: %w", err)}
	}
	return c, nil
}

// lookup asks a registry as the agents do.
func lookup(ctx context.Context, q watcher.ImageRequest) (string, error) {
	r := images.Request{Ref: q.Image, Insecure: q.TLS.Insecure, InsecureSkipTLSVerify: q.TLS.InsecureSkipTLSVerify}
	r.PullSecrets = func(context.Context) []images.PullSecret {
		var out []images.PullSecret
		for _, s := range q.Secrets {
			out = append(out, images.PullSecret{Name: s.Name, Data: s.Data, Err: s.Err})
		}
		return out
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	digest, err := images.Lookup(ctx, r)
	if errors.Is(err, images.ErrNotFound) {
		return "", nil
	}
	return digest, err
}
