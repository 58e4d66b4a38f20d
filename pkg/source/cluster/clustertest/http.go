// SPDX-License-Identifier: Apache-2.0

package clustertest

import (
	"encoding/json"
	"fmt"
	"net/http"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func (f *Fake) createSecret(w http.ResponseWriter, r *http.Request) {
	var o struct {
		Metadata metav1.ObjectMeta `json:"metadata"`
	}
	var raw json.RawMessage
	if !read(w, r, &raw) || json.Unmarshal(raw, &o) != nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.secrets[r.PathValue("namespace")+"/"+o.Metadata.Name] = raw
	answer(w, http.StatusCreated, raw)
}

func (f *Fake) secret(w http.ResponseWriter, r *http.Request) {
	key := r.PathValue("namespace") + "/" + r.PathValue("name")
	f.mu.Lock()
	defer f.mu.Unlock()
	raw, ok := f.secrets[key]
	switch {
	case !ok:
		missing(w, r)
		return
	case r.Method == http.MethodPut:
		if !read(w, r, &raw) {
			return
		}
		f.secrets[key] = raw
	case r.Method == http.MethodDelete:
		delete(f.secrets, key)
	}
	answer(w, http.StatusOK, raw)
}

func read(w http.ResponseWriter, r *http.Request, into any) bool {
	if err := json.NewDecoder(r.Body).Decode(into); err != nil {
		refuse(w, http.StatusBadRequest, metav1.StatusReasonBadRequest, err.Error())
		return false
	}
	return true
}

func answer(w http.ResponseWriter, code int, o any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(o)
}

func missing(w http.ResponseWriter, r *http.Request) {
	refuse(w, http.StatusNotFound, metav1.StatusReasonNotFound, fmt.Sprintf("%s not found", r.PathValue("name")))
}

func refuse(w http.ResponseWriter, code int, reason metav1.StatusReason, message string) {
	answer(w, code, &metav1.Status{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusFailure,
		Code: int32(code), Reason: reason, Message: message,
	})
}
