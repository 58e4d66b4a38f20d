// SPDX-License-Identifier: Apache-2.0

package images

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kmm-node/kmmd/pkg/images/imagestest"
)

// inParts has the list of referrers begin with as many entries about nothing, each in a part of its own. In link,
// HOST, PATH and NEXT are replaced.
func inParts(before int, link string) func(http.ResponseWriter, *http.Request, http.Handler) {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if !strings.Contains(r.URL.Path, "/referrers/") {
			next.ServeHTTP(w, r)
			return
		}
		all := httptest.NewRecorder()
		next.ServeHTTP(all, r)
		var index v1.IndexManifest
		if json.Unmarshal(all.Body.Bytes(), &index) != nil {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		part, _ := strconv.Atoi(r.URL.Query().Get("part"))
		if part < before {
			index.Manifests = []v1.Descriptor{{
				MediaType: "application/vnd.oci.image.manifest.v1+json", ArtifactType: "application/spdx+json",
				Digest: v1.Hash{Algorithm: "sha256", Hex: strings.Repeat("a", 64)}, Size: 2,
			}}
			follow := fmt.Sprintf("part=%d&token=a,b", part+1)
			w.Header().Set("Link", strings.NewReplacer("HOST", r.Host, "PATH", r.URL.Path, "NEXT", follow).Replace(link))
		}
		w.Header().Set("Content-Type", "application/vnd.oci.image.index.v1+json")
		_ = json.NewEncoder(w).Encode(index)
	}
}

func TestReferrersInParts(t *testing.T) {
	elsewhere := imagestest.NewRegistry(t)
	tests := []struct {
		name   string
		before int
		link   string
		found  bool
		asked  int
	}{
		{"one part", 0, "", true, 1},
		{"path", 3, `<PATH?NEXT>; rel="next"`, true, 4},
		{"query", 3, `<?NEXT>;rel=next`, true, 4},
		{"whole address", 3, `<http://HOSTPATH?NEXT>; rel="next"`, true, 4},
		{"second of two links", 3, `<PATH?part=0>; rel="first", <PATH?NEXT>; title="more"; rel="next"`, true, 4},
		{"no next", 3, `<PATH?NEXT>; rel="prev"`, false, 1},
		{"another registry", 3, `<http://` + elsewhere.Host + `PATH?NEXT>; rel="next"`, false, 1},
		{"another path", 3, `</v2/other/referrers/x?NEXT>; rel="next"`, false, 1},
		{"no address", 3, `<http://[>; rel="next"`, false, 1},
		{"no end", 3, `<PATH?NEXT; rel="next"`, false, 1},
		{"round and round", 3, `<PATH?part=0&artifactType=x>; rel="next"`, false, 2},
		{"too many", 1 << 20, `<PATH?NEXT>; rel="next"`, false, maxReferrersParts},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			reg, key := imagestest.NewRegistry(t), imagestest.NewSigner(t, "p256")
			s := withPolicy(t, openStore(t), signerKeys(t, key))
			r := request(reg.Host + "/kmod:v1")
			digest := imagestest.Push(t, r.Ref, imagestest.Layer(t, testModules()))
			imagestest.PushBundle(t, r.Ref, key.Bundle(t, digest, imagestest.PredicateSign), imagestest.PredicateSign)
			reg.Handle(inParts(tt.before, tt.link))
			reg.Requests()
			_, err := s.Ensure(t.Context(), r)
			if tt.found {
				require.NoError(t, err)
			} else {
				require.ErrorIs(t, err, ErrPolicy)
			}
			asked := 0
			for _, request := range reg.Requests() {
				if strings.Contains(request, "/referrers/") {
					asked++
				}
			}
			assert.Equal(t, tt.asked, asked)
			assert.Empty(t, elsewhere.Requests())
		})
	}
}
