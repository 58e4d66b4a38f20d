// SPDX-License-Identifier: Apache-2.0

package docs

// Lab is where commands of pages are run.
type Lab struct {
	Package string // from the root of the repository on
	Runner  string // its test, function or script that has Pages read
	Pages   []string
}

// Labs are all there are, by the name behind the language of a block.
func Labs() map[string]Lab {
	return map[string]Lab{
		// This machine, with buildah; uname names a kernel of the lab.
		"build": {"test/docs/hello", "func build", []string{"docs/quickstart/bare-node.md"}},
		// This machine, with openssl.
		"keys": {"test/vm/secureboot", "do keys ", []string{"docs/quickstart/secure-boot.md", "docs/secure-boot.md"}},
		// A VM with Secure Boot, whose firmware has the certificate of those keys in MokList.
		"secureboot": {"test/vm/secureboot", "func TestPages", []string{"docs/quickstart/secure-boot.md"}},
		// A VM with a real kernel, a registry outside and one inside; the programs of this checkout.
		"node": {"test/vm/node", "func TestPages", []string{
			"README.md", "docs/quickstart/bare-node.md", "docs/quickstart/air-gapped.md", "docs/cluster.md", "docs/migration.md", "docs/troubleshooting.md",
		}},
		// A control plane, with a node that is a VM; kubelets are played.
		"cluster": {"test/cluster/vm", "func (n *node) readPages", []string{
			"docs/quickstart/cluster.md", "README.md", "docs/cluster.md", "docs/runbooks/README.md", "docs/troubleshooting.md", "docs/status-page.md", "docs/migration.md",
		}},
		"cluster-end": {"test/cluster/vm", "func (d *reader) end", []string{"docs/quickstart/cluster.md"}},
		// A control plane with a node in memory that validates images.
		"preflight": {"test/cluster/scenario", "func TestPreflight", []string{"docs/cluster.md"}},
		// A control plane with kmm-watcher and its page.
		"page": {"test/cluster/page", "func access", []string{"docs/status-page.md"}},
		// A control plane, helm, and nobody who runs what is installed.
		"api":        {"test/cluster", "func readPages", []string{"docs/install.md", "docs/monitoring.md", "docs/migration.md"}},
		"monitoring": {"test/monitoring", "func TestCommands", []string{"docs/monitoring.md"}},
		// A VM with Debian that systemd boots, and the package.
		"systemd": {"test/vm/systemd", "/kmmd-test/bin/do systemd", []string{"docs/packages.md", "docs/quickstart/bare-node.md", "docs/migration.md"}},
		// Not run here: a target of the Makefile, or tests, that are there.
		"make": {"test/docs", "func TestMake", []string{"README.md", "HACKING.md", "docs/e2e.md", "docs/packages.md", "docs/performance.md", "docs/quickstart/cluster.md"}},
	}
}
