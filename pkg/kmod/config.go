// SPDX-License-Identifier: Apache-2.0

package kmod

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// configDirs are read by modprobe in this order; a file hides those of the same
// name in later ones.
var configDirs = [...]string{"etc/modprobe.d", "run/modprobe.d", "usr/local/lib/modprobe.d", "usr/lib/modprobe.d", "lib/modprobe.d"}

// Config is what modprobe.d and the kernel command line say. The nil Config says
// nothing. It does not change once read.
type Config struct {
	aliases    []configLine
	options    []configLine
	installs   []configLine
	removes    []configLine
	blacklists []string
	softdeps   []configSoftdep
}

// configLine is one command for a module (or, in alias lines, for a pattern).
type configLine struct{ name, value string }

type configSoftdep struct {
	file  string // base name: decides the place of modules.softdep among them
	name  string // pattern
	value Softdep
}

// softdepFile is the index file that is read as if it lay in modprobe.d.
const softdepFile = "modules.softdep"

// ReadConfig reads the modprobe.d directories below root ("" is "/") and the
// options in cmdline, the content of /proc/cmdline. Directories that do not exist
// and lines that mean nothing are passed over, as modprobe does.
func ReadConfig(root, cmdline string) (*Config, error) {
	files := make(map[string]string) // base name to path
	for _, dir := range configDirs {
		dir = filepath.Join(cmp.Or(root, "/"), dir)
		entries, err := os.ReadDir(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read configuration: %w", err)
		}
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			if _, hidden := files[e.Name()]; !hidden && isConfigFile(path) {
				files[e.Name()] = path
			}
		}
	}
	names := make([]string, 0, len(files))
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	c := &Config{}
	for _, name := range names {
		data, err := readConfigFile(files[name])
		if err != nil {
			return nil, fmt.Errorf("read configuration: %w", err)
		}
		c.parse(name, data)
	}
	c.parseCmdline(cmdline)
	return c, nil
}

// isConfigFile goes by the name. A link to nothing is a file all the same, and
// hides others.
func isConfigFile(path string) bool {
	name := filepath.Base(path)
	if name[0] == '.' || len(name) < 6 || !strings.HasSuffix(name, ".conf") && !strings.HasSuffix(name, ".alias") {
		return false
	}
	st, err := os.Stat(path)
	return err != nil || !st.IsDir()
}

// readConfigFile gives "" for what modprobe could not read either: a link to
// nothing, a file without permission.
func readConfigFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", nil
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxIndexFile))
	return string(data), err
}

// parse reads one file:
//
//	# comment
//	options snd-hda-intel power_save=1 \
//	    index=0
//	install foo /bin/false
//	softdep nfsd pre: a b post: c
func (c *Config) parse(file, data string) {
	for len(data) > 0 {
		var line string
		line, data = wrappedLine(data)
		if line == "" || line[0] == '#' {
			continue
		}
		command, rest := nextToken(line)
		name, value := nextToken(rest)
		switch command {
		case "alias":
			c.addAlias(name, value)
			continue
		case "blacklist":
			value = "-" // needs none
		}
		name, ok := normalizeAlias(name)
		if !ok || name == "" || value == "" {
			continue
		}
		switch command {
		case "options":
			c.options = append(c.options, configLine{name, strings.ReplaceAll(value, "\t", " ")})
		case "install":
			c.installs = append(c.installs, configLine{name, value})
		case "remove":
			c.removes = append(c.removes, configLine{name, value})
		case "blacklist":
			c.blacklists = append(c.blacklists, name)
		case "softdep":
			c.softdeps = append(c.softdeps, configSoftdep{file, name, parseSoftdep(softdepWords(value))})
		}
	}
}

func (c *Config) addAlias(pattern, rest string) {
	module, _ := nextToken(rest)
	pattern, ok := normalizeAlias(pattern)
	module, ok2 := normalizeAlias(module)
	if ok && ok2 && pattern != "" && module != "" {
		c.aliases = append(c.aliases, configLine{pattern, module})
	}
}

// wrappedLine cuts the first line off data. A backslash joins it with the next
// line; before any other character a backslash vanishes (libkmod:
// freadline_wrapped).
func wrappedLine(data string) (line, rest string) {
	if end := strings.IndexAny(data, "\\\n"); end < 0 {
		return cutNUL(data), ""
	} else if data[end] == '\n' {
		return cutNUL(data[:end]), data[end+1:]
	}
	var b strings.Builder
	for i := 0; i < len(data); i++ {
		switch {
		case data[i] == '\n':
			return cutNUL(b.String()), data[i+1:]
		case data[i] != '\\':
			b.WriteByte(data[i])
		case i+1 == len(data):
			b.WriteByte(0xff) // modprobe stores its end of file mark
		default:
			i++
			if data[i] != '\n' {
				b.WriteByte(data[i])
			}
		}
	}
	return cutNUL(b.String()), ""
}

func cutNUL(s string) string {
	s, _, _ = strings.Cut(s, "\x00")
	return s
}

// nextToken cuts at blanks as strtok_r(3) does: those before the token and the
// one after it go away, further ones stay in rest.
func nextToken(s string) (token, rest string) {
	s = strings.TrimLeft(s, "\t ")
	if i := strings.IndexAny(s, "\t "); i >= 0 {
		return s[:i], s[i+1:]
	}
	return s, ""
}

// softdepWords splits what follows the module name. modprobe glues a single
// blank at the start to the first word, so that "softdep m  pre: a", with two
// blanks, has no effect.
func softdepWords(value string) []string {
	words := strings.FieldsFunc(value, func(r rune) bool { return r < 0x80 && isSpace(byte(r)) })
	if len(words) > 0 && isSpace(value[0]) && !isSpace(value[1]) {
		words[0] = value[:1] + words[0]
	}
	return words
}

func isSpace(c byte) bool { return c == ' ' || '\t' <= c && c <= '\r' }

// softdep gives the first line that matches the module, which is the only one
// that counts; own are those of the modules.softdep file.
func (c *Config) softdep(module string, own map[string]Softdep) (Softdep, bool) {
	ownDep, ok := own[module]
	if c != nil {
		for _, s := range c.softdeps {
			if ok && s.file > softdepFile {
				break
			}
			if fnmatch(s.name, module) {
				return s.value, true
			}
		}
	}
	return ownDep, ok
}

// install gives the command for a module, the first that matches.
func (c *Config) install(module string) (string, bool) {
	if c == nil {
		return "", false
	}
	for _, l := range c.installs {
		if fnmatch(l.name, module) {
			return l.value, true
		}
	}
	return "", false
}

// moduleOptions joins all options lines for the module or the alias it was asked by.
func (c *Config) moduleOptions(module, alias string) string {
	if c == nil {
		return ""
	}
	var values []string
	for _, l := range c.options {
		if l.name == module || alias != "" && l.name == alias {
			values = append(values, l.value)
		}
	}
	return strings.Join(values, " ")
}

func (c *Config) blacklisted(module string) bool {
	return c != nil && slices.Contains(c.blacklists, module)
}
