// SPDX-License-Identifier: Apache-2.0

package build

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	"github.com/kmm-node/kmmd/pkg/sign"
)

// TestBuildFails: the Module has the last lines of what was said, it is tried again
// after a while, and a corrected Dockerfile is taken without anybody asking.
func TestBuildFails(t *testing.T) {
	w := begin(t, "buildfails")
	w.dockerfile("df", tinyDockerfile(`RUN echo "a long way" && echo "cc: no such file" >&2 && sleep 1 && exit 7`))
	w.apply(document{tag: "one", dockerfile: "df"})
	words := []string{"cc: no such file", "build ended with exit code", "next attempt at", release}
	w.waitCondition("m", "Degraded", "True/BuildFailed", words...)
	w.waitEvent("m", "BuildFailed", "cc: no such file")
	w.waitAttempts("m", "one", "Failed", 2)
	assert.GreaterOrEqual(t, len(w.jobs()), 2, "a Job for each attempt")
	w.dockerfile("df", tinyDockerfile(""))
	i := w.waitImage("m", "one", "Ready")
	w.waitCondition("m", "Degraded", "False/NoFailures")
	assert.Equal(t, []string{i.Digest}, registry.digests(w.namespace, "one"))
	w.waitEvent("m", "BuildSucceeded", i.Digest)
	w.assertPatient()
}

// TestSignFails: whatever is wrong, what was built is not published.
func TestSignFails(t *testing.T) {
	w := begin(t, "signfails")
	w.dockerfile("df", tinyDockerfile(""))
	d := document{tag: "one", dockerfile: "df", sign: "/opt/lib/modules/${KERNEL_FULL_VERSION}/extra/*.ko"}
	w.apply(d)
	pattern := "/opt/lib/modules/" + release + "/extra/*.ko"
	w.waitCondition("m", "Degraded", "True/SignFailed", pattern, "publish ended with exit code")
	w.waitEvent("m", "SignFailed", pattern)

	w.secret("cert", corev1.SecretTypeOpaque, "cert", keyFile(t, "foreign.crt"))
	d.sign = tinyModule
	w.apply(d)
	// What the watcher knows of the Secret may be some seconds old: then the first
	// Job is one more than is needed.
	w.waitCondition("m", "Degraded", "True/SignFailed", "key", "certificate")
	w.waitEvent("m", "SignFailed", "certificate")
	assert.Empty(t, registry.digests(w.namespace, "one"))

	w.secret("cert", corev1.SecretTypeOpaque, "cert", keyFile(t, "trusted.crt"))
	i := w.waitImage("m", "one", "Ready")
	w.waitCondition("m", "Degraded", "False/NoFailures")
	require.NoError(t, sign.Verify(w.module(w.image("one")), w.cert))
	assert.Equal(t, []string{i.Digest}, registry.digests(w.namespace, "one"), "no other image had this name")
	w.assertPatient()
}

// TestRegistryDown: first it can not be asked, then not be written to. Nothing is
// built before it is known that there is something to build, and what is half
// pushed is under no name.
func TestRegistryDown(t *testing.T) {
	w := begin(t, "registrydown")
	w.dockerfile("df", tinyDockerfile(""))
	registry.setShut(w.namespace, func(*http.Request) bool { return true })
	w.apply(document{tag: "one", dockerfile: "df", sign: tinyModule})
	message := w.waitCondition("m", "Degraded", "True/RegistryFailed", registry.host)
	assert.NotContains(t, message, "registryTLS.insecure", "that is set")
	w.waitEvent("m", "RegistryFailed", registry.host)
	assert.Empty(t, w.jobs())

	registry.setShut(w.namespace, func(r *http.Request) bool {
		return r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/manifests/")
	})
	w.waitCondition("m", "Degraded", "True/PushFailed", "publish ended with exit code", registry.host, "the tag is as it was")
	w.waitEvent("m", "PushFailed", registry.host)
	assert.Empty(t, registry.digests(w.namespace, "one"))
	registry.setShut(w.namespace, nil)
	i := w.waitImage("m", "one", "Ready")
	assert.GreaterOrEqual(t, i.Attempts, int32(2))
	assert.Equal(t, []string{i.Digest}, registry.digests(w.namespace, "one"))
	require.NoError(t, sign.Verify(w.module(w.image("one")), w.cert))
	w.waitCondition("m", "Degraded", "False/NoFailures")
	assert.Len(t, w.jobs(), int(i.Attempts), "a Job for each attempt")
	w.assertPatient()
}

// TestSignOnly: what somebody else built is signed, and stays as it is under its own
// name.
func TestSignOnly(t *testing.T) {
	w := begin(t, "signonly")
	image, err := tinyImage()
	require.NoError(t, err)
	w.push(w.image("unsigned"), image)
	before, err := image.Digest()
	require.NoError(t, err)
	w.apply(document{tag: "signed", sign: tinyModule, unsigned: w.image("unsigned")})
	i := w.waitImage("m", "signed", "Ready")
	j := w.waitJob(1)
	assert.Empty(t, j.Spec.Template.Spec.InitContainers)
	require.NoError(t, sign.Verify(w.module(w.image("signed")), w.cert))
	assert.Equal(t, []string{i.Digest}, registry.digests(w.namespace, "signed"))
	assert.Equal(t, []string{before.String()}, registry.digests(w.namespace, "unsigned"))
	w.waitEvent("m", "SignSucceeded", i.Digest)
}

// TestDeadline: what waits for something that does not come is stopped, and goes
// on when it has come.
func TestDeadline(t *testing.T) {
	var open atomic.Bool
	slow := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if !open.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer slow.Close()
	// The pod has half of it, and five seconds to end: until then it has to have got to
	// its point, however slow the machine is.
	watcher := startWatcher(t, "--build-deadline=80s")
	defer func() { watcher.Kill() }()
	w := newWorld(t, "deadline")
	w.dockerfile("df", tinyDockerfile(`RUN echo "it takes a while"; until wget -O /dev/null `+slow.URL+`; do sleep 1; done`))
	w.apply(document{tag: "one", dockerfile: "df"})
	w.waitCondition("m", "Degraded", "True/BuildFailed", "DeadlineExceeded", "503")
	w.waitEvent("m", "BuildFailed", "DeadlineExceeded")
	watcher.Kill()
	watcher = startWatcher(t) // the next has as much time as it takes
	open.Store(true)
	w.waitImage("m", "one", "Ready")
	assert.Len(t, w.jobs(), 2)
	w.assertPatient()
}

// TestWatcherKilled: there is one Job whenever it dies, and its result is not lost.
func TestWatcherKilled(t *testing.T) {
	w := newWorld(t, "killed")
	w.dockerfile("df", tinyDockerfile("ARG ROUND\nRUN sleep 2"))
	d := document{tag: "one", dockerfile: "df", sign: tinyModule, args: []string{"{name: ROUND, value: '1'}"}}
	w.apply(d) // and nobody is there
	p := startWatcher(t)
	j := w.waitJob(1)
	p.Kill()
	w.wait("the Job ends while nobody looks", func() error {
		if j = w.waitJob(1); ended(j).IsZero() {
			return errors.New("it has not")
		}
		return nil
	})
	assert.Equal(t, int32(1), j.Status.Succeeded)
	p = startWatcher(t)
	first := w.waitImage("m", "one", "Ready")

	d.args[0] = "{name: ROUND, value: '2'}"
	w.apply(d)
	j = w.waitJob(2)
	w.wait("its pod has begun", func() error {
		pods, err := w.pods(j.Name)
		if err != nil {
			return err
		}
		if len(pods) != 1 || len(pods[0].Status.InitContainerStatuses) == 0 || pods[0].Status.InitContainerStatuses[0].State.Waiting != nil {
			return errors.New("it has not")
		}
		return nil
	})
	p.Kill()
	p = startWatcher(t)
	w.wait("the second image is there", func() error {
		if i := w.status("m"); i.State != "Ready" || i.Hash == first.Hash {
			return fmt.Errorf("it is %+v", i)
		}
		return nil
	})
	p.Kill()
	p = startWatcher(t) // all is done
	defer p.Kill()
	w.dockerfile("other", tinyDockerfile("RUN echo other"))
	d.tag, d.dockerfile = "other", "other"
	w.apply(d)
	w.waitImage("m", "other", "Ready")
	assert.Len(t, w.jobs(), 3)
	assert.Len(t, registry.digests(w.namespace, "one"), 1, "the same content is the same image")
}
