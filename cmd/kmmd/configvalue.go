// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
)

// duration is a time.Duration written as "30s" in TOML. It is a struct, so
// that a plain number is refused: of which unit would it be?
type duration struct{ time.Duration }

// UnmarshalText reads what time.ParseDuration reads; nothing below zero.
func (d *duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err == nil && v <= 0 {
		err = fmt.Errorf("%q: a duration above zero is needed", text)
	}
	d.Duration = v
	return err
}

// MarshalText writes what UnmarshalText reads.
func (d duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// String is the shortest that UnmarshalText reads: "2m", not "2m0s".
func (d duration) String() string {
	s := d.Duration.String()
	for _, rest := range []string{"m0s", "h0m"} {
		if short, ok := strings.CutSuffix(s, rest); ok {
			s = short + rest[:1]
		}
	}
	return s
}

// size is a number of bytes written as "2GiB" in TOML; without a unit it is
// refused, as a duration is.
type size struct{ Bytes int64 }

// UnmarshalText reads a number with a unit: B, KB, MB, GB, KiB, MiB, GiB.
func (s *size) UnmarshalText(text []byte) error {
	n, err := humanize.ParseBytes(string(text))
	unit := strings.TrimLeft(string(text), "0123456789. ")
	if err != nil || unit == "" || n == 0 || n > math.MaxInt64 {
		return fmt.Errorf("%q: a size above zero is needed, such as 2GiB", text)
	}
	s.Bytes = int64(n)
	return nil
}

// MarshalText writes what UnmarshalText reads.
func (s size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// String is in the largest unit that leaves no fraction: "2GiB".
func (s size) String() string {
	n, units := s.Bytes, []string{"B", "KiB", "MiB", "GiB"}
	for len(units) > 1 && n != 0 && n%1024 == 0 {
		n, units = n/1024, units[1:]
	}
	return fmt.Sprintf("%d%s", n, units[0])
}
