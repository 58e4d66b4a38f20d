// SPDX-License-Identifier: Apache-2.0

package kmod

import "strings"

// fnmatch is fnmatch(3) of glibc in the C locale with flags 0, which modprobe
// uses: '*' and '?' match any byte, '/' too, a backslash quotes.
func fnmatch(pattern, s string) bool {
	// On a mismatch only the last '*' has to be tried again, one byte further.
	star, next := -1, 0
	p, i := 0, 0
	for i < len(s) {
		if p < len(pattern) {
			if pattern[p] == '*' {
				star, next = p, i
				p++
				continue
			}
			if n := matchOne(pattern[p:], s[i]); n > 0 {
				p += n
				i++
				continue
			}
		}
		if star < 0 {
			return false
		}
		next++
		p, i = star+1, next
	}
	return strings.Trim(pattern[p:], "*") == ""
}

// matchOne matches one byte against the start of a pattern and gives the length
// of what stood for it, 0 when it does not match.
func matchOne(pattern string, c byte) int {
	switch pattern[0] {
	case '?':
		return 1
	case '\\':
		if len(pattern) < 2 {
			return 0 // glibc: a backslash at the end matches nothing
		}
		if pattern[1] == c {
			return 2
		}
		return 0
	case '[':
		ok, n := matchBracket(pattern, c)
		switch {
		case n == 0 && c == '[': // not closed: an ordinary character
			return 1
		case ok:
			return n
		}
		return 0
	}
	if pattern[0] == c {
		return 1
	}
	return 0
}

// matchBracket matches a bracket expression; n is its length, 0 when it has no end.
func matchBracket(pattern string, c byte) (ok bool, n int) {
	i := 1
	negate := i < len(pattern) && (pattern[i] == '!' || pattern[i] == '^')
	if negate {
		i++
	}
	for first := true; ; first = false {
		if i >= len(pattern) {
			return false, 0
		}
		if pattern[i] == ']' && !first {
			return ok != negate, i + 1
		}
		if class, size := charClass(pattern[i:]); size > 0 {
			ok = ok || inClass(class, c)
			i += size
			continue
		}
		low, size := bracketChar(pattern[i:])
		i += size
		high := low
		if i+1 < len(pattern) && pattern[i] == '-' && pattern[i+1] != ']' {
			high, size = bracketChar(pattern[i+1:])
			i += 1 + size
		}
		ok = ok || low <= c && c <= high
	}
}

func bracketChar(s string) (c byte, size int) {
	if s[0] == '\\' && len(s) > 1 {
		return s[1], 2
	}
	return s[0], 1
}

// charClass recognises "[:name:]" at the start of s.
func charClass(s string) (name string, size int) {
	if !strings.HasPrefix(s, "[:") {
		return "", 0
	}
	end := strings.Index(s[2:], ":]")
	if end < 0 {
		return "", 0
	}
	return s[2 : 2+end], end + 4
}

func inClass(name string, c byte) bool {
	digit, letter := '0' <= c && c <= '9', isLetter(c)
	switch name {
	case "alnum":
		return digit || letter
	case "alpha":
		return letter
	case "digit":
		return digit
	case "lower":
		return letter && c >= 'a'
	case "upper":
		return letter && c < 'a'
	case "xdigit":
		return digit || 'a' <= c|0x20 && c|0x20 <= 'f'
	case "space":
		return c == ' ' || '\t' <= c && c <= '\r'
	case "blank":
		return c == ' ' || c == '\t'
	case "punct":
		return ' ' < c && c < 0x7f && !digit && !letter
	case "print":
		return ' ' <= c && c < 0x7f
	case "graph":
		return ' ' < c && c < 0x7f
	case "cntrl":
		return c < ' ' || c == 0x7f
	}
	return false
}
