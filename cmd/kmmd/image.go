// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/kmm-node/kmmd/pkg/images"
	"github.com/kmm-node/kmmd/pkg/kernel"
	"github.com/kmm-node/kmmd/pkg/kmod"
	"github.com/kmm-node/kmmd/pkg/spec"
)

func imageCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "image",
		Short: "get, check, list and remove images; copy images",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError{fmt.Errorf("unknown command %q: see kmmd image --help", args[0])}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	var store string
	cmd.PersistentFlags().StringVar(&store, "store", "", "directory of the store (default images in state_dir of the configuration)")
	cmd.AddCommand(imagePullCommand(o, &store), imageCheckCommand(o, &store), imageListCommand(o, &store), imageRemoveCommand(o, &store),
		imagePruneCommand(o, &store), imageCopyCommand(o), imageLoginsCommand())
	return cmd
}

// withStore opens the node's store, or the one of the flag, for f.
func withStore(o *options, dir string, progress func(images.Progress), f func(*images.Store, config) error) error {
	c, err := readConfig(o.configFile)
	if err != nil {
		return err
	}
	opts, err := c.imageOptions(newLog())
	if err != nil {
		return err
	}
	opts.Progress = progress
	if dir == "" {
		dir = c.imageDir()
	}
	s, err := images.Open(dir, opts)
	if err != nil {
		return err
	}
	return errors.Join(f(s, c), s.Close())
}

// pullMemory is what the garbage collector aims at while images are staged by
// hand: on a node at work, memory is others'.
const pullMemory = 20 << 20

type pullFlags struct {
	kernel, dir, firmware, policy string
	modules, secrets              []string
	insecure, skipTLS, declared   bool
}

func imagePullCommand(o *options, store *string) *cobra.Command {
	var f pullFlags
	cmd := &cobra.Command{
		Use:   "pull [--kernel RELEASE] [-f FILE|DIR]\n  kmmd image pull [--kernel RELEASE] [--module NAME]... [--firmware DIR] REF",
		Short: "get images for the running kernel, or for one that will be booted",
		Long: `pull without REF gets what the Module documents ask for on the kernel, checks that
the files fit it, and tells for each Module: ready, or why not. Nothing is loaded.

With REF it gets one image: all modules in <dir>/lib/modules/RELEASE (where depmod
has run, those it knows), or only the modules named and what they depend on; and
firmware, when asked for. REF is what
containerImage may be, also oci:/DIRECTORY and oci-archive:/FILE.

Exit codes: 0 all is in the store, 1 something is not, 2 usage or invalid document.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usageError{fmt.Errorf("image pull: one REF at a time, not %d", len(args))}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			debug.SetMemoryLimit(pullMemory)
			if len(args) == 0 {
				if err := withoutREF(cmd, *store); err != nil {
					return err
				}
				return pullDocuments(cmd, o, f.kernel)
			}
			return pullOne(cmd, o, &f, *store, args[0])
		},
	}
	o.documentsFlag(cmd)
	flags := cmd.Flags()
	flags.StringVar(&f.kernel, "kernel", "", "kernel release, as of uname -r (default the running one)")
	flags.StringArrayVar(&f.modules, "module", nil, "with REF: only this module and what it depends on; may be repeated")
	flags.StringVar(&f.dir, "dir", "", "with REF: directory in the image that has lib/modules (default "+images.DefaultDirName+")")
	flags.StringVar(&f.firmware, "firmware", "", "with REF: directory in the image that has firmware")
	flags.BoolVar(&f.declared, "declared-firmware", false, "with REF: the firmware that the modules declare is enough")
	flags.StringVar(&f.policy, "pull-policy", "", "with REF: Always, IfNotPresent or Never (default Always for the tag latest, else IfNotPresent)")
	flags.StringArrayVar(&f.secrets, "pull-secret", nil, "with REF: file with credentials as of kubernetes.io/dockerconfigjson; may be repeated")
	flags.BoolVar(&f.insecure, "insecure", false, "with REF: allow plain http")
	flags.BoolVar(&f.skipTLS, "insecure-skip-tls-verify", false, "with REF: take any certificate")
	return cmd
}

// ofREF are the flags that say how one image is got: of those that documents ask for, the documents say that.
var ofREF = []string{
	"module", "dir", "firmware", "declared-firmware", "pull-policy", "pull-secret", "insecure", "insecure-skip-tls-verify",
}

// withoutREF refuses flags that would mean nothing.
func withoutREF(cmd *cobra.Command, store string) error {
	if i := slices.IndexFunc(ofREF, cmd.Flags().Changed); i >= 0 {
		return usageError{fmt.Errorf("image pull: --%s needs REF: documents say it themselves", ofREF[i])}
	}
	if store != "" {
		return usageError{errors.New("image pull: --store needs REF: documents are staged in the node's own store")}
	}
	return nil
}

// release is the one of the flag, or the running kernel's.
func release(c config, flag string) (spec.Release, error) {
	if flag != "" {
		return spec.Release(flag), nil
	}
	host, err := kernel.Open(c.HostRoot)
	if err != nil {
		return "", err
	}
	return spec.Release(host.Release()), nil
}

// pulled is what pull says of one image.
type pulled struct {
	Ref         string `json:"ref"`
	Digest      string `json:"digest"`
	Kernel      string `json:"kernel"`
	ModulesDir  string `json:"modulesDir"`
	FirmwareDir string `json:"firmwareDir,omitempty"`
	Stale       bool   `json:"stale,omitempty"`
}

func pullOne(cmd *cobra.Command, o *options, f *pullFlags, store, ref string) error {
	if o.documents != "" {
		return usageError{errors.New("image pull: give either REF or -f")}
	}
	return withStore(o, store, o.progress(nil, nil), func(s *images.Store, c config) error {
		r, err := f.request(c, ref)
		if err != nil {
			return err
		}
		t, err := s.Ensure(cmd.Context(), r)
		if errors.Is(err, images.ErrInvalidRef) {
			return usageError{err}
		}
		if err != nil {
			return err
		}
		return printPulled(cmd, o, pulled{t.Ref, t.Digest, t.Release, t.ModulesDir, t.FirmwareDir, t.Stale})
	})
}

// request is what the flags ask for.
func (f *pullFlags) request(c config, ref string) (images.Request, error) {
	release, err := release(c, f.kernel)
	if err != nil {
		return images.Request{}, err
	}
	r := images.Request{
		Ref: ref, PullPolicy: f.policy, DirName: f.dir, Releases: release.Directories(), FirmwarePath: f.firmware,
		Modules: f.modules, Closure: kmod.Closure, Firmware: kmod.Firmware, DeclaredFirmware: f.declared || c.Firmware == firmwareDeclared,
		Insecure: f.insecure, InsecureSkipTLSVerify: f.skipTLS,
	}
	secrets, err := readSecrets(f.secrets)
	r.PullSecrets = func(context.Context) []images.PullSecret { return secrets }
	return r, err
}

func printPulled(cmd *cobra.Command, o *options, p pulled) error {
	if o.output == "json" {
		return writeJSON(cmd.OutOrStdout(), p)
	}
	out := &printer{w: cmd.OutOrStdout()}
	out.line("image     %s", p.Ref)
	out.line("digest    %s", p.Digest)
	out.line("modules   %s", p.ModulesDir)
	if p.FirmwareDir != "" {
		out.line("firmware  %s", p.FirmwareDir)
	}
	if p.Stale {
		out.line("warning   the registry could not be asked: this is what the reference stood for the last time")
	}
	return out.err
}

// pullDocuments stages what the documents ask for.
func pullDocuments(cmd *cobra.Command, o *options, kernel string) error {
	n, closeNode, err := openNode(o, nil, true, false)
	if err != nil {
		return err
	}
	defer closeNode()
	desired, err := n.readDesired()
	if err != nil {
		return err
	}
	release, err := release(n.config, kernel)
	if err != nil {
		return err
	}
	staged, err := n.agent.Stage(cmd.Context(), string(release))
	if err != nil {
		return err
	}
	staged = append(staged, notStaged(desired.Refused, staged, string(release))...)
	err = printPull(cmd, o, staged)
	if err == nil && desired.Partial {
		err = tellNotHeard(cmd, o)
	}
	switch {
	case err != nil:
		return err
	case len(desired.Invalid) > 0:
		return usageError{errors.Join(desired.Invalid...)}
	case slices.ContainsFunc(staged, func(s spec.StagedModule) bool { return !s.Ready }):
		return errNotAsWanted
	}
	return nil
}

// notStaged are the orders that are not obeyed, as a plan has them: not those in whose stead a document is.
func notStaged(refused []spec.Refused, staged []spec.StagedModule, release string) []spec.StagedModule {
	var out []spec.StagedModule
	for i := range refused {
		r := &refused[i]
		if slices.ContainsFunc(staged, func(s spec.StagedModule) bool { return s.Key() == r.Key() }) {
			continue
		}
		out = append(out, spec.StagedModule{Kernel: release, Namespace: r.Namespace, Name: r.Name, Reason: r.Reason, Message: r.Message})
	}
	return out
}

func printPull(cmd *cobra.Command, o *options, staged []spec.StagedModule) error {
	if o.output == "json" {
		return writeJSON(cmd.OutOrStdout(), staged)
	}
	out := &printer{w: cmd.OutOrStdout()}
	for i := range staged {
		printStagedLine(out, "", &staged[i])
	}
	return out.err
}

// storedImage is what ls and prune say of one image.
type storedImage struct {
	Refs     []string  `json:"refs"`
	Digest   string    `json:"digest"`
	Kernel   string    `json:"kernel"`
	Files    int       `json:"files"`
	Bytes    int64     `json:"bytes"`
	LastUsed time.Time `json:"lastUsed"`
	PinnedBy []string  `json:"pinnedBy"` // who needs it; nobody: it may go
}

func storedImages(list []images.Stored) []storedImage {
	out := []storedImage{}
	for _, s := range list {
		out = append(out, storedImage{s.Refs, s.Digest, s.Release, s.Files, s.Bytes, s.LastUsed, s.PinnedBy})
	}
	return out
}

func imageListCommand(o *options, store *string) *cobra.Command {
	return &cobra.Command{
		Use:   "ls",
		Short: "list what is in the store, and for whom it is kept",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withStore(o, *store, nil, func(s *images.Store, _ config) error {
				list, err := s.List()
				if err != nil {
					return err
				}
				usage, err := s.Usage()
				if err != nil {
					return err
				}
				if o.output == "json" {
					return writeJSON(cmd.OutOrStdout(), struct {
						Images []storedImage `json:"images"`
						Bytes  int64         `json:"bytes"` // content that several share counts once
						Quota  int64         `json:"quota"`
					}{storedImages(list), usage.Bytes, usage.Quota})
				}
				return printImages(&printer{w: cmd.OutOrStdout()}, list, usage)
			})
		},
	}
}

func printImages(out *printer, list []images.Stored, usage images.Usage) error {
	for i := range list {
		s := &list[i]
		out.line("%s", strings.Join(append(s.Refs, s.Digest), "  "))
		out.line("  kernel %s, %d files, %s, used %s", s.Release, s.Files, inUnits(s.Bytes), humanize.Time(s.LastUsed))
		if len(s.PinnedBy) > 0 {
			out.line("  kept for %s", strings.Join(s.PinnedBy, ", "))
		}
	}
	out.line("%d images, %s of %s", len(list), inUnits(usage.Bytes), inUnits(usage.Quota))
	return out.err
}

func imageRemoveCommand(o *options, store *string) *cobra.Command {
	return &cobra.Command{
		Use:   "rm REF|DIGEST...",
		Short: "remove images; one that runs or is wanted stays",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageError{errors.New("image rm: which image? See kmmd image ls")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return withStore(o, *store, nil, func(s *images.Store, _ config) error {
				var freed int64
				var errs []error
				for _, ref := range args {
					n, err := s.Remove(ref)
					freed += n
					errs = append(errs, err)
				}
				if err := printFreed(cmd, o, nil, freed); err != nil {
					return err
				}
				return errors.Join(errs...)
			})
		},
	}
}

func imagePruneCommand(o *options, store *string) *cobra.Command {
	var unused time.Duration
	cmd := &cobra.Command{
		Use:   "prune [--unused DURATION]",
		Short: "remove images that nothing needs; what runs or is wanted stays",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if unused < 0 {
				return usageError{fmt.Errorf("image prune: --unused %s: a duration of 0 or more is needed", unused)}
			}
			return withStore(o, *store, nil, func(s *images.Store, _ config) error {
				freed, removed, err := s.Prune(images.PruneOptions{Unused: unused})
				return errors.Join(err, printFreed(cmd, o, removed, freed))
			})
		},
	}
	cmd.Flags().DurationVar(&unused, "unused", 0, "only what has not been used for so long, such as 168h")
	return cmd
}

func printFreed(cmd *cobra.Command, o *options, removed []images.Stored, freed int64) error {
	if o.output == "json" {
		return writeJSON(cmd.OutOrStdout(), struct {
			Removed []storedImage `json:"removed"`
			Freed   int64         `json:"freed"` // bytes
		}{storedImages(removed), freed})
	}
	out := &printer{w: cmd.OutOrStdout()}
	for i := range removed {
		out.line("removed %s", strings.Join(append(removed[i].Refs, removed[i].Digest), "  "))
	}
	out.line("%s freed", inUnits(freed))
	return out.err
}
