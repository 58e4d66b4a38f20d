// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kmm-node/kmmd/pkg/api/v1beta2"
	"github.com/kmm-node/kmmd/pkg/build"
	"github.com/kmm-node/kmmd/pkg/images/imagestest"
	"github.com/kmm-node/kmmd/pkg/kernel/kerneltest"
	"github.com/kmm-node/kmmd/pkg/kmod/kmodtest"
	"github.com/kmm-node/kmmd/test/cluster/fleet"
	"github.com/kmm-node/kmmd/test/cluster/lab"
	"github.com/kmm-node/kmmd/test/cluster/podrun"
)

// upgrade is a world whose nodes are about to get another kernel; the containers of
// Jobs are run.
type upgrade struct{ *world }

// agentImage is what the pods of Jobs call kmmd's.
const agentImage = "registry.test/kmmd:v1"

func newUpgrade(t *testing.T, namespace string) upgrade {
	t.Helper()
	t.Parallel()
	u := upgrade{private(t, namespace)}
	u.player.Leave(build.HashLabel)
	a := u.node("a")
	program, err := filepath.Abs("../../../.lab/bin/kmmd")
	require.NoError(t, err)
	podrun.Start(t, u.cluster.Config(), podrun.Options{
		Nodes: []string{a.Name}, Images: map[string]podrun.Image{agentImage: podrun.Program("/usr/bin/kmmd", program)},
	})
	return u
}

func (u upgrade) watcher(identity string) *lab.Program {
	u.t.Helper()
	return newWatcher(u.t, u.cluster, identity, "--agent-image="+agentImage, "--build-retry=2s")
}

// pushFor pushes an image with a module that says it is for a kernel, in the
// directory of the one to come.
func (u upgrade) pushFor(release, tag string, change ...func(*kmodtest.Spec)) (ref string) {
	u.t.Helper()
	s := kmodtest.Spec{Name: "mod", Vermagic: kerneltest.Vermagic(release), Params: []kmodtest.Param{{Name: "level", Type: "int"}}}
	for _, c := range change {
		c(&s)
	}
	ref = u.Registry.Host + "/next:" + tag
	imagestest.Push(u.t, ref, imagestest.Layer(u.t, map[string]string{
		"opt/lib/modules/" + strings.ReplaceAll(fleet.OtherRelease, "+", "_") + "/mod.ko": string(kmodtest.Build(s)),
	}))
	return ref
}

func (u upgrade) preflight(name, kernel string, push bool) {
	u.t.Helper()
	u.applyYAML(fmt.Sprintf("apiVersion: kmm.sigs.x-k8s.io/v1beta2\nkind: PreflightValidation\nmetadata: {name: %s}\nspec: {kernelVersion: %q, pushBuiltImage: %v}\n", name, kernel, push))
}

func (u upgrade) get(name string) *v1beta2.PreflightValidation {
	u.t.Helper()
	p, err := u.api.PreflightValidations().Get(context.WithoutCancel(u.t.Context()), name, metav1.GetOptions{})
	require.NoError(u.t, err)
	return p
}

// verified waits for the condition, and gives the reasons by Module.
func (u upgrade) verified(name string, want metav1.ConditionStatus) map[string]string {
	u.t.Helper()
	var p *v1beta2.PreflightValidation
	u.wait(fmt.Sprintf("PreflightValidation %s is Verified=%s", name, want), func() error {
		p = u.get(name)
		c := meta.FindStatusCondition(p.Status.Conditions, v1beta2.ConditionVerified)
		if c == nil || c.Status != want || c.ObservedGeneration != p.Generation {
			return fmt.Errorf("it is %+v: %+v", c, p.Status.Modules)
		}
		return nil
	})
	out := map[string]string{}
	for _, m := range p.Status.Modules {
		assert.Equal(u.t, v1beta2.VerificationStageDone, m.VerificationStage)
		out[m.Name] = m.VerificationStatus + " " + m.StatusReason
	}
	return out
}

// jobs are the names of those of a kind that are about the kernel to come.
func (u upgrade) jobs(kind build.Kind) []string {
	u.t.Helper()
	list, err := u.kube.BatchV1().Jobs(u.namespace).List(u.t.Context(), metav1.ListOptions{LabelSelector: build.KindLabel + "=" + string(kind)})
	require.NoError(u.t, err)
	var out []string
	for _, j := range list.Items {
		if j.Annotations[build.KernelAnnotation] == fleet.OtherRelease {
			out = append(out, j.Name)
		}
	}
	slices.Sort(out)
	return out
}

// TestPreflight: what is wrong with each Module is told, one Job looks at each image,
// and whoever mends something sees that it is.
func TestPreflight(t *testing.T) {
	u := newUpgrade(t, "preflight")
	first := u.watcher("first")
	good := u.pushFor(fleet.OtherRelease, "good", func(s *kmodtest.Spec) { s.Depends = []string{"mdio"} })
	unfit := u.pushFor(fleet.Release, "unfit")
	absent := u.Registry.Host + "/next:absent"
	u.apply(
		document{name: "good", image: good}, document{name: "unfit", image: unfit}, document{name: "absent", image: absent},
		document{name: "plugin", spec: []string{"devicePlugin: {container: {image: 'a:1'}}"}},
	)
	unmapped := strings.ReplaceAll(u.yaml(document{name: "unmapped", image: good}), "^6\\.", "^5\\.")
	u.applyYAML(unmapped)
	mark, err := u.cluster.Mark(t.Context())
	require.NoError(t, err)
	began := time.Now()
	u.preflight("next", fleet.OtherRelease, false)
	found := u.verified("next", metav1.ConditionFalse)
	assert.Len(t, found, 4, "what loads no module is not asked about")
	assert.Equal(t, "Success 1 files fit kernel "+fleet.OtherRelease+"; mod: needs mdio, which is not in the image: the kernel has to bring it", found["good"])
	assert.Contains(t, found["unfit"], "Failure WrongKernel: mod: the vermagic of /opt/lib/modules/6.12.117_deb12-cloud-amd64/mod.ko says")
	assert.Contains(t, found["absent"], "Failure ImageNotFound: there is no image "+absent)
	assert.Contains(t, found["unmapped"], "Failure NoMapping: ")
	assert.Len(t, u.jobs(build.Check), 2, "one for each image that is there")
	assert.Regexp(t, `next\s+6.12.117\S+\s+False\s+1 of 4 Modules are ready`, u.kubectl("get", "pfv"))

	u.preflight("again", fleet.OtherRelease, false) // a second one beside it
	assert.Equal(t, found, u.verified("again", metav1.ConditionFalse))
	assert.Len(t, u.jobs(build.Check), 4)

	requests, err := u.cluster.Requests(t.Context(), mark)
	require.NoError(t, err)
	writes := 0
	for _, r := range requests {
		if strings.Contains(r.User, "kmm-watcher") && r.Resource == "preflightvalidations" && r.Verb == "patch" {
			writes++
		}
	}
	seconds := int(time.Since(began) / time.Second)
	assert.LessOrEqual(t, writes, 2*(seconds+1), "of each one at most in a second, whatever there is to say")

	first.Kill()
	before := u.get("next").ResourceVersion
	u.watcher("second")
	u.pushFor(fleet.OtherRelease, "unfit")
	u.pushFor(fleet.OtherRelease, "absent")
	u.applyYAML(strings.ReplaceAll(unmapped, "^5\\.", "^6\\."))
	found = u.verified("next", metav1.ConditionTrue)
	for name, said := range found {
		assert.Contains(t, said, "Success 1 files fit", name)
	}
	assert.NotEqual(t, before, u.get("next").ResourceVersion)
	u.verified("again", metav1.ConditionTrue)
	assert.Len(t, u.jobs(build.Check), 10, "what was good was not looked at again, whoever looks")

	u.cluster.Reader(t).Read(t, "docs/cluster.md", "preflight")
	u.kubectl("delete", "pfv", "again")
	u.wait("its Jobs go with it", func() error {
		if n := len(u.jobs(build.Check)); n != 5 {
			return fmt.Errorf("there are %d", n)
		}
		return nil
	})
	u.apply(document{name: "good", image: good, container: []string{"imagePullPolicy: Always"}}, document{name: "unfit", image: unfit, spec: []string{"tolerations: []"}})
	u.preflight("next", fleet.Release, false) // another kernel: nothing is for that
	found = u.verified("next", metav1.ConditionFalse)
	assert.Contains(t, found["good"], "Failure NoModules: ")
}

// TestPreflightSigned: what the cluster signs is signed for the kernel to come, and
// thrown away or pushed. What somebody else has pushed has to be signed, too.
func TestPreflightSigned(t *testing.T) {
	u := newUpgrade(t, "preflightsign")
	first := u.watcher("first")
	unsigned := u.pushFor(fleet.OtherRelease, "unsigned")
	key, cert := newKey(t)
	u.secret("key", map[string]string{"key": key})
	u.secret("cert", map[string]string{"cert": cert})
	signed := u.Registry.Host + "/next:signed"
	u.apply(document{name: "m", image: signed, container: []string{fmt.Sprintf(
		`sign: {keySecret: {name: key}, certSecret: {name: cert}, unsignedImage: %q, unsignedImageRegistryTLS: {insecure: true}, filesToSign: ["/opt/lib/modules/${KERNEL_FULL_VERSION}/*.ko"]}`, unsigned)}})
	u.preflight("next", fleet.OtherRelease, false)
	found := u.verified("next", metav1.ConditionTrue)
	assert.Equal(t, "Success it can be made, and was not pushed: 1 files fit kernel "+fleet.OtherRelease, found["m"])
	assert.Len(t, u.jobs(build.Rehearse), 1)
	assert.Empty(t, u.jobs(build.Check))
	assert.Empty(t, u.digest(signed), "nothing was pushed")

	u.preflight("next", fleet.OtherRelease, true)
	found = u.verified("next", metav1.ConditionTrue)
	assert.Equal(t, "Success 1 files fit kernel "+fleet.OtherRelease, found["m"])
	assert.Len(t, u.jobs(build.Check), 1)
	assert.Equal(t, u.digest(signed), u.get("next").Status.Modules[0].Digest)
	assert.NotEmpty(t, u.digest(signed))

	first.Kill()
	before := u.get("next").ResourceVersion
	u.watcher("second")

	// Somebody pushes what is not signed: the next validation sees it.
	u.pushFor(fleet.OtherRelease, "signed")
	u.preflight("later", fleet.OtherRelease, false)
	found = u.verified("later", metav1.ConditionFalse)
	assert.Equal(t, before, u.get("next").ResourceVersion, "there was nothing to say about the other one")
	assert.Len(t, u.jobs(build.Publish), 1)
	assert.Len(t, u.jobs(build.Check), 2)
	assert.Equal(t, "Failure Signature: mod: /opt/lib/modules/6.12.117_deb12-cloud-amd64/mod.ko is not signed", found["m"])

	// Without the key nothing can be signed, and the Module says what is missing.
	u.kubectl("delete", "secret", "key", "-n", u.namespace)
	u.Registry.Forget()
	u.preflight("last", fleet.OtherRelease, false)
	found = u.verified("last", metav1.ConditionFalse)
	assert.Equal(t, "Failure Missing: Secret preflightsign/key is not there", found["m"])
	u.secret("key", map[string]string{"key": key})
	u.pushFor(fleet.OtherRelease, "unsigned")
	u.verified("last", metav1.ConditionTrue)
}

// TestPreflightStopped: what is not wanted any more is stopped.
func TestPreflightStopped(t *testing.T) {
	t.Parallel()
	u := upgrade{private(t, "preflightstop")} // nobody runs the pods
	u.player.Leave(build.HashLabel)
	u.node("a")
	u.watcher("first")
	one, two := u.pushFor(fleet.OtherRelease, "one"), u.pushFor(fleet.OtherRelease, "two")
	u.apply(document{name: "m", image: one})
	u.preflight("next", fleet.OtherRelease, false)
	u.wait("there is a Job, and its pod has a node", func() error {
		pods, err := u.kube.CoreV1().Pods(u.namespace).List(t.Context(), metav1.ListOptions{LabelSelector: build.HashLabel})
		if err == nil && (len(pods.Items) != 1 || pods.Items[0].Spec.NodeName == "") {
			return fmt.Errorf("there are %d pods", len(pods.Items))
		}
		return err
	})
	was := u.jobs(build.Check)
	require.Len(t, was, 1)
	u.apply(document{name: "m", image: two})
	u.wait("there is another Job, and the first one ends", func() error {
		now := u.jobs(build.Check)
		pods, err := u.kube.CoreV1().Pods(u.namespace).List(t.Context(), metav1.ListOptions{LabelSelector: build.HashLabel})
		if err != nil {
			return err
		}
		ending := slices.ContainsFunc(pods.Items, func(p corev1.Pod) bool { return p.DeletionTimestamp != nil })
		if slices.Equal(now, was) || !ending {
			return fmt.Errorf("%v", now)
		}
		return nil
	})
	u.kubectl("delete", "module", "m", "-n", u.namespace, "--wait=false")
	u.wait("nothing is said of a Module that goes", func() error {
		if n := len(u.get("next").Status.Modules); n > 0 {
			return fmt.Errorf("of %d", n)
		}
		return nil
	})
	u.verified("next", metav1.ConditionTrue)
}
