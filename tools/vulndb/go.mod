// The Go vulnerability database, as the files of a module: `make vuln` and `make lint` read data/osv in it. It is no dependency of
// anything, so `go mod tidy` would take the line away. A newer list: go -C tools/vulndb get golang.org/x/vulndb@latest
module github.com/kmm-node/kmmd/tools/vulndb

go 1.26.5

require golang.org/x/vulndb v0.0.0-20261105234957-e22db6528018
