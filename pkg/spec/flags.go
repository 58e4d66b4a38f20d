// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"errors"
	"fmt"
	"strings"
)

// ErrUnsupportedFlag says that a word of args or rawArgs asks modprobe for
// something which only modprobe can do.
var ErrUnsupportedFlag = errors.New("modprobe flag not supported")

// Flags are those of modprobe's switches that have a meaning without modprobe.
type Flags struct {
	IgnoreVermagic    bool `json:"ignoreVermagic,omitempty"`    // --force-vermagic, -f
	IgnoreModversions bool `json:"ignoreModversions,omitempty"` // --force-modversion, -f
}

// words is a modprobe command line, understood.
type words struct {
	flags      Flags
	dirName    string
	name       string
	all        bool // -a: every further word is a module
	parameters []string
}

// harmless switches are accepted and change nothing: kmmd runs no install
// command, obeys no blacklist for a module it is told to load, and reports
// always.
var harmless = map[string]bool{
	"-v": true, "--verbose": true, "-q": true, "--quiet": true, "-s": true, "--syslog": true,
	"-i": true, "--ignore-install": true, "--ignore-remove": true, "-a": true, "--all": true, // of one module
}

// parseWords reads the switches of modprobe(8) (kmod 30). raw allows what
// rawArgs has in addition: -d DIR, -r, the module's name and its parameters.
func parseWords(args []string, raw bool) (words, error) {
	var w words
	for i := 0; i < len(args); i++ {
		arg := args[i]
		dir, hasDir := strings.CutPrefix(arg, "--dirname=")
		switch {
		case harmless[arg]:
			w.all = w.all || arg == "-a" || arg == "--all"
		case arg == "-f" || arg == "--force":
			w.flags = Flags{IgnoreVermagic: true, IgnoreModversions: true}
		case arg == "--force-vermagic":
			w.flags.IgnoreVermagic = true
		case arg == "--force-modversion":
			w.flags.IgnoreModversions = true
		case arg == "-r" || arg == "--remove":
		case raw && hasDir:
			w.dirName = dir
		case raw && (arg == "-d" || arg == "--dirname") && i+1 < len(args):
			i++
			w.dirName = args[i]
		case raw && !strings.HasPrefix(arg, "-") && w.name == "":
			w.name = arg
		case raw && !strings.HasPrefix(arg, "-"):
			w.parameters = append(w.parameters, arg)
		default:
			return w, fmt.Errorf("%q: %w: kmmd loads modules itself and knows -f, --force-vermagic, --force-modversion, -i, -q, -r, -s and -v", arg, ErrUnsupportedFlag)
		}
	}
	return w, nil
}

// loadWords is what is loaded and how, from args or rawArgs.
func (p *Modprobe) loadWords() (words, error) {
	if p.RawArgs != nil {
		w, err := parseWords(p.RawArgs.Load, true)
		if w.dirName == "" {
			w.dirName = p.dir()
		}
		if err == nil && w.name == "" {
			err = errors.New("rawArgs.load names no module")
		}
		if err == nil && w.all && len(w.parameters) > 0 {
			err = fmt.Errorf("%q: -a makes a module of it, and a Module loads one and what that needs: %w", w.parameters[0], ErrUnsupportedFlag)
		}
		return w, err
	}
	w := words{dirName: p.dir(), name: p.ModuleName, parameters: p.Parameters}
	if p.Args == nil {
		return w, nil
	}
	parsed, err := parseWords(p.Args.Load, false)
	w.flags = parsed.flags
	return w, err
}

func (p *Modprobe) dir() string {
	if p.DirName == "" {
		return DefaultDirName
	}
	return p.DirName
}
