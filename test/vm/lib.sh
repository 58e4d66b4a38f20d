# SPDX-License-Identifier: Apache-2.0
# Sourced by the scripts of this directory: where the lab lies, and small helpers.
# shellcheck shell=bash

vm_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repo=$(cd "$vm_dir/../.." && pwd)
lab=$repo/.lab

die() {
	printf '%s: %s\n' "${0##*/}" "$*" >&2
	exit 125
}

# lab_release SERIES prints the kernel release that stands for a series: "6.1" -> "6.1.0-56-cloud-amd64".
lab_release() {
	[[ -f $lab/kernels ]] || die "no kernels in $lab: run test/vm/setup (make setup)"
	local release
	release=$(awk -v s="$1" '$1 == s { print $2 }' "$lab/kernels")
	[[ -n $release ]] || die "no kernel $1: the lab has $(cut -d' ' -f1 "$lab/kernels" | paste -sd' ')"
	printf '%s\n' "$release"
}

# shell_quote WORD... prints the words so that any POSIX shell reads them back unchanged.
shell_quote() {
	local word sep=
	for word in "$@"; do
		printf "%s'%s'" "$sep" "${word//\'/\'\\\'\'}"
		sep=' '
	done
	printf '\n'
}

# content_id PATH... prints one hash over names and bytes of the files, for "did anything change since".
content_id() {
	find "$@" -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum | cut -c1-16
}

# pack_cpio DIR FILE makes an uncompressed initramfs archive of DIR, everything owned by root.
# The kernel unpacks several of them one after the other, so they can simply be concatenated.
pack_cpio() {
	(cd "$1" && find . -print0 | LC_ALL=C sort -z | cpio --null --quiet -o -H newc -R 0:0) >"$2.tmp"
	mv "$2.tmp" "$2"
}
