// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

const auditLog = "audit.log"

// Request is one that the API server has answered. A request that came to a
// server which then was stopped may be missing.
type Request struct {
	User, UserAgent string
	Verb            string // create, update, patch, delete, deletecollection; with Options.AuditReads get, list, watch
	Group, Resource string
	Subresource     string
	Namespace, Name string // a create has no name where the server gives it
	Code            int
	Time            time.Time // when it was answered
}

// Mark is a moment in the audit log.
type Mark int64

// Mark is now: everything that was answered before it is before it.
func (c *Cluster) Mark(ctx context.Context) (Mark, error) {
	if err := c.settleAudit(ctx); err != nil {
		return 0, err
	}
	info, err := os.Stat(c.path("log", auditLog))
	if err != nil {
		return 0, fmt.Errorf("read audit log: %w", err)
	}
	return Mark(info.Size()), nil
}

// Requests are those answered since a mark, of everybody; the zero Mark is the
// beginning. Reviews of tokens and of access, and leases, are left out.
func (c *Cluster) Requests(ctx context.Context, since Mark) ([]Request, error) {
	if err := c.settleAudit(ctx); err != nil {
		return nil, err
	}
	log, err := os.Open(c.path("log", auditLog))
	if err != nil {
		return nil, fmt.Errorf("read audit log: %w", err)
	}
	defer log.Close()
	if _, err := log.Seek(int64(since), io.SeekStart); err != nil {
		return nil, fmt.Errorf("read audit log: %w", err)
	}
	var out []Request
	for lines := bufio.NewReader(log); ; {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return out, nil // a line that is being written is after now
		}
		if err != nil {
			return nil, fmt.Errorf("read audit log: %w", err)
		}
		r, err := parseAudit(line)
		if err != nil {
			return nil, err
		}
		if !strings.HasPrefix(r.UserAgent, markAgent) {
			out = append(out, r)
		}
	}
}

func parseAudit(line []byte) (Request, error) {
	var event struct {
		User           struct{ Username string }
		UserAgent      string
		Verb           string
		StageTimestamp metav1.MicroTime
		ObjectRef      struct{ APIGroup, Resource, Subresource, Namespace, Name string }
		ResponseStatus struct{ Code int }
	}
	if err := json.Unmarshal(line, &event); err != nil {
		return Request{}, fmt.Errorf("read audit log: %w", err)
	}
	o := event.ObjectRef
	return Request{
		User: event.User.Username, UserAgent: event.UserAgent, Verb: event.Verb,
		Group: o.APIGroup, Resource: o.Resource, Subresource: o.Subresource, Namespace: o.Namespace, Name: o.Name,
		Code: event.ResponseStatus.Code, Time: event.StageTimestamp.Time,
	}, nil
}

// markAgent is the user agent of requests that are made to see them in the log.
const markAgent = "kmmd-lab-mark/"

// settleAudit makes a request and waits until the log has it.
func (c *Cluster) settleAudit(ctx context.Context) error {
	start := int64(0)
	if info, err := os.Stat(c.path("log", auditLog)); err == nil {
		start = info.Size()
	}
	config := c.Config()
	config.UserAgent = markAgent + strconv.FormatInt(c.marks.Add(1), 10) + "/"
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("mark audit log: %w", err)
	}
	review := &authenticationv1.SelfSubjectReview{}
	if _, err := client.AuthenticationV1().SelfSubjectReviews().Create(ctx, review, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("mark audit log: %w", err)
	}
	return c.apiServer.waitFor(ctx, func() error {
		return fileHas(c.path("log", auditLog), start, config.UserAgent)
	})
}

func fileHas(path string, start int64, word string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := file.Seek(start, io.SeekStart); err != nil {
		return err
	}
	data, err := io.ReadAll(file)
	if err != nil {
		return err
	}
	at := bytes.Index(data, []byte(word))
	if at < 0 || !bytes.Contains(data[at:], []byte("\n")) {
		return fmt.Errorf("%s has no %s yet", path, word)
	}
	return nil
}

// writeAuditPolicy has one line for each answered request.
func (c *Cluster) writeAuditPolicy() error {
	type resources struct {
		Group     string   `json:"group"`
		Resources []string `json:"resources,omitempty"`
	}
	type rule struct {
		Level     string      `json:"level"`
		Verbs     []string    `json:"verbs,omitempty"`
		Resources []resources `json:"resources,omitempty"`
	}
	verbs := []string{"create", "update", "patch", "delete", "deletecollection"}
	if c.options.AuditReads {
		verbs = append(verbs, "get", "list", "watch")
	}
	policy := map[string]any{
		"apiVersion": "audit.k8s.io/v1", "kind": "Policy",
		"omitStages": []string{"RequestReceived", "ResponseStarted"},
		"rules": []rule{
			{Level: "None", Resources: []resources{
				{Group: "coordination.k8s.io"}, {Group: "authorization.k8s.io"},
				{Group: "authentication.k8s.io", Resources: []string{"tokenreviews"}},
			}},
			{Level: "Metadata", Verbs: verbs},
			{Level: "None"},
		},
	}
	data, err := json.Marshal(policy)
	if err == nil {
		err = os.WriteFile(c.path("audit-policy.json"), data, 0o600)
	}
	if err != nil {
		return fmt.Errorf("write audit policy: %w", err)
	}
	return nil
}
