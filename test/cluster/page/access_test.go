// SPDX-License-Identifier: Apache-2.0

package page

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/page"
	"github.com/kmm-node/kmmd/test/cluster/chromium"
	"github.com/kmm-node/kmmd/test/cluster/lab"
	"github.com/kmm-node/kmmd/test/docs"
)

// watch: one picture after the other, whenever something changes.
func watch(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), lab.Patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(bin(t), "kmm-watcher"), "status", "good", "-n", namespace, "--watch", "-o", "json")
	cmd.Env = append(os.Environ(), "KUBECONFIG="+cluster.KubeconfigPath())
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	next := func() (nodes int) {
		require.True(t, lines.Scan(), "another picture: %v", lines.Err())
		var c page.Cluster
		require.NoError(t, json.Unmarshal(lines.Bytes(), &c))
		require.Len(t, c.Modules, 1)
		return len(c.Modules[0].Nodes)
	}
	assert.Equal(t, 2, next())
	cluster.Kubectl(t, "label", "node", "look-evil", "look=")
	for next() != 3 {
	}
	cluster.Kubectl(t, "label", "node", "look-evil", "look-")
	for next() != 2 {
	}
	require.NoError(t, cmd.Process.Signal(os.Interrupt))
	assert.NoError(t, cmd.Wait(), "Ctrl-C is how it ends")
}

// rights: somebody who may look, and nobody.
func rights(t *testing.T) {
	kubeconfig := func(user string) string {
		config, err := cluster.User(user)
		require.NoError(t, err)
		data, err := lab.Kubeconfig(config, "")
		require.NoError(t, err)
		path := filepath.Join(t.TempDir(), "config")
		require.NoError(t, os.WriteFile(path, data, 0o600))
		return path
	}
	_, notes, err := status(t, kubeconfig("nobody"), "-A")
	require.Error(t, err)
	assert.Regexp(t, `User "nobody" cannot (list|watch) resource`, notes)
	cluster.Kubectl(t, "create", "clusterrole", "looks", "--verb=list,watch", "--resource=nodes,modules.kmm.sigs.x-k8s.io,nodemodulesconfigs.kmm.sigs.x-k8s.io")
	cluster.Kubectl(t, "create", "clusterrolebinding", "looks", "--clusterrole=looks", "--user=looker")
	var out string
	lab.Wait(t, "the right is known", func() (err error) {
		if out, notes, err = status(t, kubeconfig("looker"), "-A"); err != nil {
			return fmt.Errorf("%w: %s", err, notes)
		}
		return nil
	})
	assert.Contains(t, out, "look/good")
	assert.Contains(t, notes, "PreflightValidations can not be read")
}

// access: a second watcher waits and says so; when the first has gone, it shows
// the page to those who may see it.
func access(t *testing.T, b *chromium.Browser, first *lab.Program) {
	_, address := watcher(t, "second", "--status-page", "--require-access")
	url := "https://" + address + "/status"
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	get := func(url, token string) (int, string) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
		require.NoError(t, err)
		if token != "" {
			req.Header.Set("Authorization", "Bearer "+token)
		}
		res, err := client.Do(req)
		require.NoError(t, err)
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		return res.StatusCode, string(body)
	}
	for _, name := range []string{"looker", "stranger"} {
		cluster.Kubectl(t, "create", "serviceaccount", name, "-n", namespace)
	}
	cluster.Kubectl(t, "create", "clusterrolebinding", "status", "--clusterrole=kmm-status-reader", "--serviceaccount="+namespace+":looker")
	token := func(name string) string {
		return strings.TrimSpace(cluster.Kubectl(t, "create", "token", name, "-n", namespace))
	}
	looker, stranger := token("looker"), token("stranger")
	for _, path := range []string{"", "/module?namespace=look&name=good"} {
		code, _ := get(url+path, "")
		assert.Equal(t, 401, code)
		code, _ = get(url+path, "nonsense")
		assert.Equal(t, 401, code)
		code, text := get(url+path, stranger)
		assert.Equal(t, 403, code)
		assert.Contains(t, text, "system:serviceaccount:look:stranger")
	}
	code, _ := get("https://"+address+"/metrics", "")
	assert.Equal(t, 401, code)
	lab.Wait(t, "the right is known", func() error {
		if code, text := get("https://"+address+"/metrics", looker); code != 200 || !strings.Contains(text, "kmm_watcher_") {
			return fmt.Errorf("%d %s", code, text)
		}
		return nil
	})
	code, _ = get("https://"+address+"/livez", "")
	assert.Equal(t, 200, code)
	lab.Wait(t, "who waits says for whom", func() error {
		if code, text := get(url, looker); code != 503 || !strings.Contains(text, "pod/first") {
			return fmt.Errorf("%d %s", code, text)
		}
		return nil
	})
	first.Stop()
	lab.Wait(t, "the second is at work", func() error {
		if code, text := get(url, looker); code != 200 || !strings.Contains(text, "look/good") {
			return fmt.Errorf("%d %s", code, text)
		}
		return nil
	})
	r := cluster.Reader(t)
	r.Words = map[string]string{"127.0.0.1:9809": address}
	r.Before = func(t *testing.T, c *docs.Command) bool {
		if strings.HasPrefix(c.Text, "curl ") {
			lab.Wait(t, "the right is known", func() error {
				_, err := cluster.Run(t.Context(), "", "auth", "can-i", "get", "/status", "--as=system:serviceaccount:default:looker")
				return err
			})
		}
		return true
	}
	r.Read(t, "docs/status-page.md", "page")
	b.Header("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte("me:"+looker)))
	b.Go(url)
	assert.Empty(t, b.Wrong())
	var tables int
	b.Eval(`document.querySelectorAll("table").length`, &tables)
	assert.Equal(t, 4, tables)
}
