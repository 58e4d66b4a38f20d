// SPDX-License-Identifier: Apache-2.0

// Package page looks at the status page of a real kmm-watcher in a real browser,
// and at the same from a terminal.
package page

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/types"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kmm-node/kmmd/pkg/api/client"
	"github.com/kmm-node/kmmd/test/cluster/fleet"
	"github.com/kmm-node/kmmd/test/cluster/lab"
	"github.com/kmm-node/kmmd/test/cluster/play"
)

// cluster is shared by all tests.
var cluster *lab.Cluster

func TestMain(m *testing.M) {
	os.Exit(lab.Main(m, lab.Options{
		ControllerManager: true, Scheduler: true, Install: []string{"deploy/base", "deploy/components/require-access/access.yaml"},
	}, &cluster))
}

const namespace = "look"

// hostile is what a node says that wants to do more than say it.
const hostile = `<script>alert(1)</script><img src="//evil.example/x" onerror="alert(2)"></details></table>` + "\x1b[2J"

// scene is a cluster in which something of everything has happened: two nodes run
// "good" and can not run "bad", one has a hostile message, and an image is not
// made.
func scene(t *testing.T) {
	t.Helper()
	player := play.Start(t, cluster.Config())
	f := fleet.New(t, cluster, player)
	cluster.Kubectl(t, "create", "namespace", namespace)
	t.Cleanup(func() {
		cluster.Kubectl(t, "delete", "pfv", "--all")
		cluster.Kubectl(t, "delete", "modules", "--all", "-n", namespace, "--wait=false")
		cluster.Kubectl(t, "delete", "nodes", "--all")
		cluster.Kubectl(t, "delete", "namespace", namespace, "--wait=false")
	})
	labels := map[string]string{"look": ""}
	f.Node("look-a", labels)
	f.Node("look-b", labels)
	require.NoError(t, player.AddNodes(t.Context(), play.Node{Name: "look-evil", Labels: map[string]string{"evil": ""}, BootID: "boot"}))
	const mapping = "{container: {registryTLS: {insecure: true}, modprobe: {moduleName: %s}, kernelMappings: [{regexp: '^6\\.', containerImage: %q%s}]}}"
	module := func(name, selector, module, image, more string) string {
		return fmt.Sprintf("---\napiVersion: kmm.sigs.x-k8s.io/v1beta1\nkind: Module\nmetadata: {name: %s, namespace: %s}\nspec:\n  selector: {%s: ''}\n  moduleLoader: "+
			mapping+"\n", name, namespace, selector, module, image, more)
	}
	cluster.KubectlInput(t, module("good", "look", "good", f.Image("v1", "good"), "")+module("bad", "look", "bad", f.BrokenImage("broken"), "")+
		module("evil", "evil", "evil", f.Image("v2", "evil"), "")+
		module("made", "look", "made", f.Registry.Host+"/made:${KERNEL_FULL_VERSION}", ", build: {dockerfileConfigMap: {name: nowhere}}")+
		"---\napiVersion: kmm.sigs.x-k8s.io/v1beta2\nkind: PreflightValidation\nmetadata: {name: next}\nspec: {kernelVersion: 6.12.117+deb12-cloud-amd64}\n", "apply", "-f", "-")
	sayEvil(t)
	lab.Wait(t, "all has happened", func() error {
		out := cluster.Kubectl(t, "get", "modules", "-n", namespace, "-o", `jsonpath={range .items[*]}{.metadata.name}={.status.conditions[?(@.type=="Ready")].status}/{.status.conditions[?(@.type=="Degraded")].reason} {end}`)
		for _, want := range []string{"good=True/NoFailures", "bad=False/NoModules", "evil=False/InitFailed", "made=False/BuildFailed"} {
			if !strings.Contains(out, want) {
				return fmt.Errorf("%s", out)
			}
		}
		if out := cluster.Kubectl(t, "get", "pfv", "next", "-o", "jsonpath={.status.modules[*].name}"); len(strings.Fields(out)) != 4 {
			return fmt.Errorf("validated: %s", out)
		}
		return nil
	})
}

// shown waits until the page at an address shows the scene: what kmm-watcher has written
// comes back to it some time later.
func shown(t *testing.T, url string) {
	t.Helper()
	lab.Wait(t, "the page shows what has happened", func() error {
		res, err := http.Get(url) //nolint:noctx // it is ours
		if err != nil {
			return err
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if err != nil {
			return err
		}
		if _, next, ok := strings.Cut(string(body), "What PreflightValidation next has found out"); !ok || strings.Count(next, `scope="row"`) < 4 {
			return fmt.Errorf("%s", body)
		}
		return nil
	})
}

// sayEvil writes the status of a node that has no agent.
func sayEvil(t *testing.T) {
	t.Helper()
	config, err := cluster.ServiceAccount(t.Context(), "kmm-system", "kmmd", "look-evil")
	require.NoError(t, err)
	own, err := client.New(config)
	require.NoError(t, err)
	lab.Wait(t, "the node is told", func() error {
		nmc, err := own.NodeModulesConfigs().Get(t.Context(), "look-evil", metav1.GetOptions{})
		if err != nil {
			return err
		}
		patch, err := json.Marshal(map[string]any{"status": map[string]any{
			"observedGeneration": nmc.Generation, "bootID": "boot", "modules": []any{map[string]any{
				"namespace": namespace, "name": "evil", "state": "Failed", "reason": "InitFailed", "message": hostile,
				"revision": nmc.Spec.Modules[0].Revision, "since": "2026-01-01T00:00:00Z",
			}},
		}})
		require.NoError(t, err)
		_, err = own.NodeModulesConfigs().Patch(t.Context(), "look-evil", types.MergePatchType, patch, metav1.PatchOptions{}, "status")
		return err
	})
}

var serving = regexp.MustCompile(`msg=serving address=(\S+)`)

// watcher starts one, and gives its address when it serves.
func watcher(t *testing.T, identity string, flags ...string) (*lab.Program, string) {
	t.Helper()
	p, err := cluster.StartWatcher(t.Context(), identity, flags...)
	require.NoError(t, err)
	t.Cleanup(p.Kill)
	address := ""
	lab.Wait(t, "kmm-watcher serves", func() error {
		m := serving.FindStringSubmatch(p.Log())
		if m == nil {
			return fmt.Errorf("its log: %s", p.Log())
		}
		address = m[1]
		return nil
	})
	return p, address
}

// bin is where make build puts the programs.
func bin(t *testing.T) string {
	t.Helper()
	path, err := filepath.Abs("../../../.lab/bin")
	require.NoError(t, err)
	return path
}

// status runs kmm-watcher status with somebody's kubeconfig.
func status(t *testing.T, kubeconfig string, args ...string) (string, string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), lab.Patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(bin(t), "kmm-watcher"), append([]string{"status"}, args...)...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+kubeconfig)
	var out, notes strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &notes
	err := cmd.Run()
	return out.String(), notes.String(), err
}

// TestComponents: what is switched on in a cluster is what is tested here.
func TestComponents(t *testing.T) {
	out := cluster.Kubectl(t, "kustomize", lab.Overlay(t, "../../..", "deploy/base", "deploy/components/status-page", "deploy/components/require-access"))
	for what, n := range map[string]int{
		"- --status-page\n": 1, "- --require-access\n": 1, "scheme: HTTPS\n": 2, "name: kmm-status-reader\n": 1, "name: system:auth-delegator\n": 1,
	} {
		require.Equal(t, n, strings.Count(out, what), what)
	}
}
