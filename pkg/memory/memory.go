// SPDX-License-Identifier: Apache-2.0

// Package memory gives back to the machine what this process needed for a moment.
package memory

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// NoHugePages has this process, and those that it starts, use pages of 4 KiB where the machine gives all processes huge ones
// (/sys/kernel/mm/transparent_hugepage/enabled): a heap of a few MiB that comes and goes would take several times as
// much. A kernel that does not know of it (prctl(2), PR_SET_THP_DISABLE; Linux 3.15) changes nothing. No privilege is needed.
func NoHugePages() { _ = unix.Prctl(unix.PR_SET_THP_DISABLE, 1, 0, 0, 0) }

// seldom is how much a heap may grow until garbage is collected, in percent of what lives; the least heap at which that
// happens, 4 MiB with 100, grows with it (runtime/mgcpacer.go, heapMinimum; Go 1.26).
const seldom = 200

// roomy is up to which size of all that the runtime has, in bytes, there is that much room.
const roomy = 32 << 20

// CollectSeldom leaves room for what one change of a small heap needs, such as the dictionary of 1 MiB that each module
// packed by xz asks for: a collection in the middle of it would cost more than all else. What has become garbage when it
// is over goes with Collect and GiveBack. A process that needs more, for a large image, has garbage collected as often as
// it takes to stay at 32 MiB, if it can. GOGC and GOMEMLIMIT in the environment are obeyed instead. No privilege is needed.
func CollectSeldom() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(seldom)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(roomy)
	}
}

// GiveBack returns unused memory of the heap, and lets go of the program's own code and constants: what is used again is
// read again, from the page cache as a rule, and what was only needed to start is not. It takes some milliseconds, and needs
// /proc; without it, the heap's is returned all the same. What it does not do is no error.
func GiveBack() {
	for range 2 { // what is pooled (sync.Pool) outlives one collection
		debug.FreeOSMemory()
	}
	LetGo()
}

// LetGo is the second half of GiveBack: it lets go of the program's own code and constants, and collects nothing.
func LetGo() {
	text, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		return
	}
	for _, m := range constant(string(text)) {
		_ = unix.Madvise(unsafe.Slice((*byte)(unsafe.Add(nil, m.start)), m.end-m.start), unix.MADV_DONTNEED)
	}
}

// AfterCollections has f called after each garbage collection from now on, by a goroutine of the runtime's that must not be
// kept waiting. Of a process that rests there is one every two minutes.
func AfterCollections(f func()) {
	runtime.SetFinalizer(&sentinel{}, func(*sentinel) {
		f()
		AfterCollections(f)
	})
}

// sentinel is garbage from the beginning; it has a pointer, as the runtime puts small objects without one together.
type sentinel struct{ _ *sentinel }

// freeKept is how much unused memory the heap may keep for what comes next, in bytes.
const freeKept = 1 << 20

// Collect does at once what the runtime would do later, and where somebody waits: it collects garbage when there is less
// left than half of what may be allocated before that happens by itself, and gives unused memory back when there is more
// than a MiB. It may take some milliseconds; as a rule it does nothing. No privilege is needed.
func Collect() {
	use := []metrics.Sample{
		{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/gc/heap/live:bytes"}, {Name: "/gc/heap/goal:bytes"},
		{Name: "/memory/classes/heap/free:bytes"},
	}
	metrics.Read(use)
	objects, live, goal, free := use[0].Value.Uint64(), use[1].Value.Uint64(), use[2].Value.Uint64(), use[3].Value.Uint64()
	if objects > live && goal > live && objects-live > (goal-live)/2 || free > freeKept {
		debug.FreeOSMemory()
	}
}

// mapping is a part of the address space.
type mapping struct{ start, end uint64 }

// constant are those mappings of /proc/PID/smaps that are the same when they are read again: of a file, not to be written
// to, and never written to. The last is not said by the first two: a dynamic linker writes addresses into such a part before
// it is closed.
//
//	00400000-00fb8000 r-xp 00000000 fe:00 1835087                            /usr/bin/kmmd
//	...
//	Anonymous:             0 kB
//	Swap:                  0 kB
func constant(smaps string) (all []mapping) {
	var m mapping
	file, clean := false, false
	for line := range strings.Lines(smaps) {
		f := strings.Fields(line)
		if len(f) > 1 && !strings.HasSuffix(f[0], ":") {
			file = len(f) > 5 && (f[1] == "r-xp" || f[1] == "r--p") && f[4] != "0"
			from, to, _ := strings.Cut(f[0], "-")
			var err, err2 error
			m.start, err = strconv.ParseUint(from, 16, 64)
			m.end, err2 = strconv.ParseUint(to, 16, 64)
			file = file && err == nil && err2 == nil && m.start < m.end
			continue
		}
		switch {
		case len(f) != 3:
		case f[0] == "Anonymous:":
			clean = f[1] == "0"
		case f[0] == "Swap:" && f[1] == "0" && file && clean:
			all = append(all, m)
		}
	}
	return all
}
