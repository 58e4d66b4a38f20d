// SPDX-License-Identifier: Apache-2.0

package images

// The phases of a pull.
const (
	PhaseResolve = "resolve" // the registry is asked what the reference stands for
	PhaseFetch   = "fetch"   // layers arrive
	PhaseStore   = "store"   // what is taken is made durable
)

// Progress is how far a pull is.
type Progress struct {
	// Ref is the reference asked for.
	Ref string
	// Phase is one of the constants above.
	Phase string
	// Layer is how many layers have been begun, newest first, of Layers. Most
	// pulls end before the last one.
	Layer, Layers int
	// Bytes of layers have arrived. Total is what those begun have; it grows
	// with each further layer.
	Bytes, Total int64
	// Written is the bytes written to disk.
	Written int64
	// Resumes is how many broken connections were taken up again.
	Resumes int
	// Done is set in the last report; Err is what the pull failed with.
	Done bool
	Err  error
}

// begin notes that layer i is being read from now on.
func (j *job) begin(i int) {
	j.state.Phase = PhaseFetch
	j.state.Layer = max(j.state.Layer, len(j.layers)-i)
	j.state.Total += j.layers[i].Size
	j.emit()
}

// emit reports where the pull is.
func (j *job) emit() {
	j.state.Bytes, j.state.Resumes = j.f.bytes.Load(), int(j.f.resumes.Load())
	j.report(j.state)
}
