// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/sha256"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kmm-node/kmmd/pkg/spec"
)

// speed says how fast a machine is at things that are nobody's merit: an emulated
// one has to be told from what it runs on.
type speed struct {
	Loop    float64 `json:"loop"`    // nanoseconds of one step of an arithmetic loop
	Syscall float64 `json:"syscall"` // nanoseconds of getppid(2)
	SHA256  float64 `json:"sha256"`  // MB/s
	Go      float64 `json:"go"`      // nanoseconds to parse a document, warm: code as kmmd's, without a system call
}

// measureSpeed takes the best of several tries: others only make it slower.
func measureSpeed() speed {
	const steps, calls, size, documents = 5_000_000, 50_000, 4 << 20, 200
	document := []byte(scenarios()[0].document("127.0.0.1:5000"))
	var s speed
	data := make([]byte, size)
	sink := uint64(88172645463325252)
	for range 7 {
		begin := time.Now()
		for range steps {
			sink ^= sink << 13
			sink ^= sink >> 7
			sink ^= sink << 17
		}
		s.Loop = better(s.Loop, float64(time.Since(begin).Nanoseconds())/steps)
		begin = time.Now()
		for range calls {
			unix.Getppid()
		}
		s.Syscall = better(s.Syscall, float64(time.Since(begin).Nanoseconds())/calls)
		data[0] = byte(sink)
		begin = time.Now()
		sum := sha256.Sum256(data)
		s.SHA256 = max(s.SHA256, size/1e6/time.Since(begin).Seconds())
		sink += uint64(sum[0])
		begin = time.Now()
		for range documents {
			if _, _, err := spec.Parse("document.yaml", document); err != nil {
				panic(err) // it is a constant
			}
		}
		s.Go = better(s.Go, float64(time.Since(begin).Nanoseconds())/documents)
	}
	return s
}

func better(a, b float64) float64 {
	if a == 0 {
		return b
	}
	return min(a, b)
}
