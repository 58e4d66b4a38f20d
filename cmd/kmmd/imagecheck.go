// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kmm-node/kmmd/pkg/agent"
	"github.com/kmm-node/kmmd/pkg/content"
	"github.com/kmm-node/kmmd/pkg/images"
	"github.com/kmm-node/kmmd/pkg/images/credentials"
	"github.com/kmm-node/kmmd/pkg/kmod"
	"github.com/kmm-node/kmmd/pkg/preflight"
	"github.com/kmm-node/kmmd/pkg/spec"
)

type checkFlags struct {
	from, kernel, dir, firmware, modulesDir string
	modules, parameters, authfiles          []string
	force, insecure, skipTLS                bool
	signed                                  bool
	cert                                    string
	files                                   []string
	result                                  string
}

func imageCheckCommand(o *options, store *string) *cobra.Command {
	var f checkFlags
	cmd := &cobra.Command{
		Use:   "check --from REF|oci:/DIR --kernel RELEASE --module NAME...",
		Short: "look whether what an image has fits a kernel that does not run here",
		Long: `check gets the modules named out of an image, and what they depend on there, and
looks whether the kernel RELEASE could load them: there are modules for it, each was
built for it (vermagic: release and options), for this machine's architecture, they
have the parameters given, were built against each other, and are signed where
asked. What they need and the image lacks has to come with the kernel: that is told,
and is no error, unless --modules-dir has that kernel's own modules to look at.

The kernel is not asked for anything, and nothing is kept: the files are in a
directory of their own meanwhile, below TMPDIR or --store.

Exit codes: 0 they fit, 1 they do not, or the image can not be had, 2 usage.`,
		Args: func(_ *cobra.Command, args []string) error { return f.usable(args) },
		RunE: func(cmd *cobra.Command, _ []string) error {
			debug.SetMemoryLimit(pullMemory)
			return runImageCheck(cmd, o, &f, *store)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.from, "from", "", "the image: REF of a registry, oci:/DIRECTORY or oci-archive:/FILE")
	flags.StringVar(&f.kernel, "kernel", "", "kernel release, as of uname -r there")
	flags.StringArrayVar(&f.modules, "module", nil, "a module to be loaded, in this order; may be repeated (default all that the image has)")
	flags.StringArrayVar(&f.parameters, "parameter", nil, "NAME=VALUE that the last module is to be loaded with; may be repeated")
	flags.BoolVar(&f.force, "force-vermagic", false, "they are to be loaded whatever their vermagic")
	flags.StringVar(&f.dir, "dir", images.DefaultDirName, "directory in the image that has lib/modules")
	flags.StringVar(&f.firmware, "firmware", "", "directory in the image that has firmware")
	flags.StringVar(&f.modulesDir, "modules-dir", "", "that kernel's own lib/modules/RELEASE")
	flags.BoolVar(&f.signed, "signed", false, "they have to be signed")
	flags.StringVar(&f.cert, "cert", "", "with --signed: by the certificate in this file (PEM or DER)")
	flags.StringArrayVar(&f.files, "files", nil, "with --signed: only these have to be, as patterns of paths in the image; may be repeated")
	flags.BoolVar(&f.insecure, "insecure-from", false, "allow plain http")
	flags.BoolVar(&f.skipTLS, "skip-tls-verify-from", false, "take any certificate")
	flags.StringArrayVar(&f.authfiles, "authfile", nil, "file with credentials as of kubernetes.io/dockerconfigjson, tried before the node's own; may be repeated")
	flags.StringVar(&f.result, "result", "", "file to write the result to, as a line of JSON")
	return cmd
}

// usable refuses what can not be meant.
func (f *checkFlags) usable(args []string) error {
	switch {
	case len(args) > 0:
		return usageError{fmt.Errorf("unexpected argument %q", args[0])}
	case f.from == "":
		return usageError{errors.New("image check: which image? Give --from")}
	case f.kernel == "":
		return usageError{errors.New("image check: for which kernel? Give --kernel")}
	case strings.ContainsAny(f.kernel, "/ "):
		return usageError{fmt.Errorf("image check: --kernel %q is no release, such as uname -r prints", f.kernel)}
	case !f.signed && (f.cert != "" || len(f.files) > 0):
		return usageError{errors.New("image check: --cert and --files need --signed")}
	}
	return nil
}

// checked is what check found.
type checked struct {
	Image  string `json:"image"`
	Digest string `json:"digest,omitempty"`
	Kernel string `json:"kernel"`
	OK     bool   `json:"ok"`
	content.Report
}

func runImageCheck(cmd *cobra.Command, o *options, f *checkFlags, store string) error {
	out := checked{Image: f.from, Kernel: f.kernel}
	file, err := openResult(f.result)
	if err != nil {
		return err
	}
	f.authfiles = present(cmd, f.authfiles)
	err = f.check(cmd.Context(), o, store, &out)
	if file != nil {
		err = errors.Join(err, out.result(err).write(file))
	}
	if err != nil {
		return err
	}
	if o.output == "json" {
		err = writeJSON(cmd.OutOrStdout(), out)
	} else {
		err = printChecked(&printer{w: cmd.OutOrStdout()}, &out)
	}
	if err == nil && !out.OK {
		err = errNotAsWanted
	}
	return err
}

// check gets the files and looks at them. The error says why that can not be done.
func (f *checkFlags) check(ctx context.Context, o *options, store string, out *checked) error {
	k, want, err := f.wants()
	if err != nil {
		return err
	}
	scratch, err := os.MkdirTemp(store, "kmmd-check-")
	if err != nil {
		return fmt.Errorf("make a directory for the image's files: %w", err)
	}
	err = withStore(o, scratch, o.progress(nil, nil), func(s *images.Store, _ config) error {
		r, err := f.request()
		if err != nil {
			return err
		}
		t, err := s.Ensure(ctx, r)
		if errors.Is(err, images.ErrInvalidRef) {
			return usageError{err}
		}
		if err != nil {
			return err
		}
		out.Digest = t.Digest
		files := content.Files{ModulesDir: t.ModulesDir, Path: path.Join("/", f.dir, "lib/modules", t.Release), FirmwareDir: t.FirmwareDir}
		report, err := content.Check(files, k, want)
		if err == nil {
			out.Report, out.OK = *report, report.OK()
		}
		return err
	})
	return errors.Join(err, os.RemoveAll(scratch))
}

// wants are the kernel and what is asked of the files.
func (f *checkFlags) wants() (k content.Kernel, w content.Want, err error) {
	k = content.Kernel{Release: spec.Release(f.kernel), Arch: runtime.GOARCH}
	w = content.Want{Modules: f.modules, Parameters: f.parameters, IgnoreVermagic: f.force}
	if f.modulesDir != "" {
		if k.Modules, err = kmod.OpenHostTree(f.modulesDir); err != nil {
			return k, w, usageError{fmt.Errorf("--modules-dir: %w", err)}
		}
	}
	if f.signed {
		w.Signed = &content.Signed{}
		if f.cert != "" {
			if w.Signed.Cert, err = readCertificate(f.cert); err != nil {
				return k, w, err
			}
		}
		w.Signed.Match, err = anyOf(f.files)
	}
	return k, w, err
}

// anyOf matches what one of the patterns stands for; nil for none.
func anyOf(patterns []string) (func(string) bool, error) {
	if len(patterns) == 0 {
		return nil, nil
	}
	var globs []images.Glob
	for _, p := range patterns {
		g, err := images.ParseGlob(p)
		if err != nil {
			return nil, usageError{fmt.Errorf("--files: %w", err)}
		}
		globs = append(globs, g)
	}
	return func(file string) bool {
		return slices.ContainsFunc(globs, func(g images.Glob) bool { return g.Match(file) })
	}, nil
}

// request asks for the modules and what they need; with the kernel's own modules
// at hand for all of them, because those may need one that the image has.
func (f *checkFlags) request() (images.Request, error) {
	r := images.Request{
		Ref: f.from, PullPolicy: images.PullAlways, DirName: f.dir, Releases: spec.Release(f.kernel).Directories(),
		FirmwarePath: f.firmware, Modules: f.modules, Closure: kmod.Closure, Firmware: kmod.Firmware,
		Insecure: f.insecure, InsecureSkipTLSVerify: f.skipTLS,
	}
	if f.modulesDir != "" {
		r.Modules = nil
	}
	secrets, err := readSecrets(f.authfiles)
	r.PullSecrets = func(context.Context) []images.PullSecret { return secrets }
	return r, err
}

// readSecrets reads files with credentials.
func readSecrets(files []string) ([]images.PullSecret, error) {
	var secrets []images.PullSecret
	for _, name := range files {
		secret, err := os.ReadFile(name)
		if err != nil {
			return nil, usageError{fmt.Errorf("read pull secret: %w", err)}
		}
		if _, err := credentials.Parse(name, secret); err != nil {
			return nil, usageError{fmt.Errorf("pull secret: %w", err)}
		}
		secrets = append(secrets, images.PullSecret{Name: name, Data: secret})
	}
	return secrets, nil
}

func printChecked(out *printer, c *checked) error {
	out.line("image   %s", c.Image)
	out.line("digest  %s", c.Digest)
	for _, file := range c.Files {
		out.line("file    %s", file)
	}
	for _, f := range c.Findings {
		out.line("%s", f)
	}
	out.line("%s", c.summary())
	return out.err
}

// summary is one sentence.
func (c *checked) summary() string {
	if c.OK {
		return fmt.Sprintf("%d files fit kernel %s", len(c.Files), c.Kernel)
	}
	return "the image does not fit kernel " + c.Kernel
}

// result is what a Job says.
func (c *checked) result(err error) result {
	r := result{Image: c.Image, Digest: c.Digest, OK: c.OK && err == nil}
	if err != nil {
		r.Reason, r.Message = string(agent.ReasonOf(err)), err.Error()
		var usage usageError
		if errors.As(err, &usage) {
			r.Reason = string(spec.ReasonInvalid)
		}
		return r
	}
	var lines []string
	for _, f := range c.Findings {
		if c.OK == (f.Level == preflight.Error) {
			continue
		}
		lines = append(lines, f.Module+": "+f.Text)
		if !c.OK && r.Reason == "" {
			r.Reason = string(f.Reason)
		}
	}
	if c.OK {
		lines = append([]string{c.summary()}, lines...)
	}
	r.Message = strings.Join(lines, "; ")
	return r
}
