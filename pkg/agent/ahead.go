// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"time"

	"github.com/kmm-node/kmmd/pkg/kernel"
	"github.com/kmm-node/kmmd/pkg/plan"
)

// aheadSize is how much of module files may be open for loads that are made together: those that have to be copied are in
// memory, all at once.
const aheadSize = 64 << 20

// loadAhead makes the load that is the first of these steps, which were noted together, with those that follow it. What came of
// them is taken up by each one's step, which looks whether the right build runs; what was not tried is left to it.
func (a *Agent) loadAhead(ctx context.Context, owner string, steps []plan.Step) {
	if first, ok := steps[0].(plan.Load); !ok || len(steps) < 2 || a.madeAhead(first.File) {
		return
	}
	var requests []kernel.LoadRequest
	size := int64(0)
	for _, s := range steps {
		file := s.(plan.Load).File
		r, done, err := a.request(file, false)
		if err != nil {
			break // its step will say so
		}
		defer done()
		requests = append(requests, r)
		if info, err := r.File.Stat(); err == nil {
			size += info.Size()
		}
		if size > aheadSize || a.mayAskForFirmware(owner, file) {
			break
		}
	}
	if len(requests) < 2 {
		return
	}
	a.loaded = map[string]attempt{}
	for i, l := range a.cfg.Kernel.LoadAll(ctx, requests) {
		a.loaded[requests[i].Name] = attempt{l, requests[i].Compressed}
	}
}

func (a *Agent) madeAhead(file plan.File) bool {
	_, made := a.loaded[file.Name]
	return made
}

// mayAskForFirmware tells whether the kernel may have words for a load that do not name the module: they would be taken
// for ones about the next.
func (a *Agent) mayAskForFirmware(owner string, file plan.File) bool {
	r := a.resolved[owner]
	if r == nil {
		return true
	}
	parsed := r.parsed[file.Path]
	return parsed == nil || len(parsed.Info.Firmware) > 0
}

// tookAhead is how long a step's load took that was made ahead.
func (a *Agent) tookAhead(s plan.Step) time.Duration {
	load, ok := s.(plan.Load)
	if !ok {
		return 0
	}
	return a.loaded[load.File.Name].Took
}
