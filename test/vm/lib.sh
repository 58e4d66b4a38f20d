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

# content_id PATH... prints one hash over names and bytes of files of the repository, for "did anything change since".
content_id() {
	cd "$repo" && find "$@" -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum | cut -c1-16
}

# stamped FILE ID COMMAND... runs the command unless FILE says it was run for ID.
stamped() {
	local file=$1 id=$2
	shift 2
	[[ ! -f $file || $(<"$file") != "$id" ]] || return 0
	rm -f "$file"
	"$@"
	printf '%s\n' "$id" >"$file"
}

# pack_cpio DIR FILE makes an uncompressed initramfs archive of DIR, everything owned by root.
# The kernel unpacks several of them one after the other, so they can simply be concatenated.
pack_cpio() {
	(cd "$1" && find . -print0 | LC_ALL=C sort -z | cpio --null --quiet -o -H newc -R 0:0) >"$2.tmp"
	mv "$2.tmp" "$2"
}

# Everything below is for scripts that boot a VM (exec, run). They call vm_begin first; vm_end runs on exit.

# vm_begin NAME makes the work directory and the place of the logs, and promises to clean up.
vm_begin() {
	vm_series=${KMMD_VM_KERNEL:-6.1}
	vm_boot=${KMMD_VM_BOOT:-bios}
	vm_release=$(lab_release "$vm_series")
	vm_timeout=${KMMD_VM_TIMEOUT:-300}
	vm_saved_logs=$lab/log/$1-$vm_series${KMMD_VM_BOOT:+-$KMMD_VM_BOOT}
	vm_work=$(mktemp -d -t kmmd-vm.XXXXXX)
	vm_logs=$vm_work/log
	vm_pids=()
	trap vm_end EXIT
	trap 'exit 129' HUP
	trap 'exit 130' INT
	trap 'exit 143' TERM
	mkdir -p "$vm_logs" "$vm_work/guest/kmmd-test/bin" "$vm_work/guest/usr/bin"
	[[ ! -x $lab/bin/kmmd ]] || cp "$lab/bin/kmmd" "$vm_work/guest/usr/bin/kmmd"
	[[ ! -d $lab/boot/keys ]] || cp -r "$lab/boot/keys" "$vm_work/guest/kmmd-test/keys"
}

vm_end() {
	trap '' HUP INT TERM
	local pid
	for pid in "${vm_pids[@]}"; do
		kill "$pid" 2>/dev/null || true
		wait "$pid" 2>/dev/null || true
	done
	# A convenience: not worth an error when .lab is somebody else's.
	{ rm -rf "$vm_saved_logs" && mkdir -p "$vm_saved_logs" && cp "$vm_logs"/* "$vm_saved_logs"; } 2>/dev/null || true
	rm -rf "$vm_work"
}

# background COMMAND... starts a program that dies with this shell, even when this shell is killed. The time limit also
# gives it a process group of its own, so that Ctrl-C reaches us first and we end it.
background() {
	setpriv --pdeathsig KILL -- timeout -k 5 "$vm_timeout" setpriv --pdeathsig KILL -- "$@" &
	vm_pids+=($!)
}

# vm_registry starts a real registry on the host's loopback and sets vm_registry to what the guest calls it.
vm_registry() {
	cat >"$vm_work/registry.yml" <<-YML
		version: 0.1
		log: {level: info}
		storage:
		  filesystem: {rootdirectory: $vm_work/registry}
		  delete: {enabled: true}
		http: {addr: "127.0.0.1:0"}
	YML
	background docker-registry serve "$vm_work/registry.yml" >"$vm_logs/registry.log" 2>&1
	local port='' i
	for ((i = 0; i < 2400; i++)); do
		port=$(sed -n 's/.*listening on 127\.0\.0\.1:\([0-9]*\).*/\1/p' "$vm_logs/registry.log")
		[[ -z $port ]] || break
		kill -0 "${vm_pids[-1]}" 2>/dev/null || break
		sleep 0.05
	done
	[[ -n $port ]] || die "the registry does not start:"$'\n'"$(cat "$vm_logs/registry.log")"
	vm_registry=10.0.2.2:$port
}

# vm_files copies what KMMD_VM_FILES names into the guest's /src.
vm_files() {
	local file
	for file in ${KMMD_VM_FILES:-}; do
		mkdir -p "$(dirname "$vm_work/guest/src/$file")"
		cp -a "$repo/$file" "$vm_work/guest/src/$file"
	done
}

# vm_environment prints the guest's environment as shell commands: what the tests rely on, our own settings, Go's.
vm_environment() {
	local name
	! vm_uefi || printf '%s\n' "printf '\\n\\001\\n'" # see vm_output
	shell_quote export KMMD_VM=1 "KMMD_VM_KERNEL=$vm_series" "KMMD_VM_BOOT=$vm_boot" "KMMD_VM_REGISTRY=$vm_registry"
	while read -r name; do
		case $name in
		KMMD_LAB | KMMD_VM | KMMD_VM_KERNEL | KMMD_VM_BOOT | KMMD_VM_REGISTRY) ;; # a path of the host; set above
		KMMD_* | GODEBUG | GOTRACEBACK | GOMAXPROCS | GOMEMLIMIT | GOGC)
			shell_quote export "$name=${!name}" ;;
		esac
	done < <(compgen -e)
}

vm_uefi() { [[ $vm_boot == secureboot || $vm_boot == mok ]]; }

# vm_output shows what comes out of the guest's command. Firmware of UEFI draws its screen on that port too, before: from
# the line on that has one byte 1.
vm_output() {
	if vm_uefi; then
		sed -u $'1,/^\001$/d'
	else
		cat
	fi
}

# vm_machine fills vm_qemu with what the boot configuration asks of QEMU, and vm_append with what of the kernel's command
# line. Of the five, three check modules for real: sig_enforce and lockdown are asked of the kernel by its command line, and
# trust no key but its own; secureboot and mok are UEFI firmware with Secure Boot on that was told to trust the keys of
# .lab/boot/keys, in db, or by shim in MokList, where real machines have them. secureboot starts the kernel directly, mok
# by shim and GRUB from a disk.
vm_machine() {
	local boot=$lab/boot efi=$lab/boot/firmware
	vm_append="console=ttyS0 quiet panic=-1 mitigations=off tsc=reliable no_timer_check net.ifnames=0"
	# Emulation translates code per virtual address: where each process has its libraries elsewhere, it does so for each anew,
	# which is most of what a small program costs.
	vm_append+=" norandmaps"
	# Self-tests of the kernel's cryptography that modules have no part in: a second or two of each boot.
	vm_append+=" cryptomgr.notests initcall_blacklist=crypto_kdf108_init,jent_mod_init,init_encrypted"
	# The emulated time stamp counter is the machine's. A guest that measures it while others use the processor gets it wrong, and
	# has a clock that runs away. bogomips is twice its MHz.
	if [[ ${KMMD_VM_ACCEL:-tcg} == tcg ]]; then
		vm_append+=$(awk '/^bogomips/ { printf " tsc_early_khz=%d", $3 * 500; exit }' /proc/cpuinfo)
		# Timers at ticks, 250 a second: each program of ours begins with dozens of sleeps of 20 µs, and an emulated timer costs more
		# than that. With one processor it is an eighth of what a VM costs; with two it was not measured.
		[[ ${KMMD_VM_CPUS:-2} != 1 ]] || vm_append+=" highres=off"
	fi
	vm_qemu=()
	local kernel=("$lab/$vm_release"/boot/vmlinuz-*)
	case $vm_boot in
	bios) ;;
	sig_enforce) vm_append+=" module.sig_enforce=1" ;;
	lockdown) vm_append+=" lockdown=integrity" ;;
	secureboot | mok)
		[[ -f $boot/$vm_boot.fd ]] || die "no $boot/$vm_boot.fd: run test/vm/setup (make setup)"
		[[ -f $vm_work/vars.fd ]] || cp "$boot/$vm_boot.fd" "$vm_work/vars.fd" # the guest writes it
		vm_qemu+=(
			-machine q35
			-drive "if=pflash,format=raw,unit=0,readonly=on,file=$efi/usr/share/OVMF/OVMF_CODE_4M.fd"
			-drive "if=pflash,format=raw,unit=1,file=$vm_work/vars.fd"
		)
		;;
	*) die "KMMD_VM_BOOT=$vm_boot: there are bios, sig_enforce, lockdown, secureboot, mok" ;;
	esac
	vm_append+=" ${KMMD_VM_APPEND:-}"
	if [[ $vm_boot != mok ]]; then
		vm_qemu+=(-kernel "${kernel[0]}" -initrd "$vm_work/initrd" -append "$vm_append")
		return
	fi
	mkdir -p "$vm_work/esp/EFI/BOOT" "$vm_work/esp/EFI/debian"
	cp "$efi/usr/lib/shim/shimx64.efi.signed" "$vm_work/esp/EFI/BOOT/BOOTX64.EFI"
	cp "$efi/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed" "$vm_work/esp/EFI/BOOT/grubx64.efi"
	cp "${kernel[0]}" "$vm_work/esp/vmlinuz"
	ln "$vm_work/initrd" "$vm_work/esp/initrd"
	cat >"$vm_work/esp/EFI/debian/grub.cfg" <<-CFG
		linux /vmlinuz $vm_append
		initrd /initrd
		boot
	CFG
	vm_qemu+=(-drive "file=fat:$vm_work/esp,format=raw,readonly=on,if=none,id=esp" -device virtio-blk-pci,drive=esp,bootindex=0)
}

# vm_disks gives the VM a disk with an empty ext4 for each size, in MiB, of KMMD_VM_DISKS: /dev/vda, /dev/vdb, … once the
# guest has loaded virtio_blk.
vm_disks() {
	local size disk=$vm_work/disk
	for size in ${KMMD_VM_DISKS:-}; do
		disk+=x
		truncate -s "${size}M" "$disk"
		/usr/sbin/mke2fs -q -t ext4 -m 0 "$disk"
		vm_qemu+=(-drive "file=$disk,if=virtio,format=raw,cache=unsafe")
	done
}

# vm_kernel_failed says whether the kernel has failed for a known reason that has nothing to do with what is tested, and
# sets vm_failure to it.
vm_kernel_failed() {
	local console=$vm_logs/console.log
	# Two emulated processors: rarely, one runs into an instruction that Linux 6.12 is changing on the other, and the kernel
	# oopses or, if that was in its first thread, panics. When that is while it boots, nothing of ours has run.
	if grep -aqE 'Oops:|Kernel panic' "$console" && ! grep -aq 'init: userspace' "$console"; then
		vm_failure="it failed while it booted"
	# See TestZStuck of test/vm/node.
	elif grep -aq 'Kernel panic .* Oopsed too often' "$console"; then
		vm_failure="a load ran into what an oops had left"
	else
		return 1
	fi
}

# vm_boot boots the VM with the files of $vm_work/guest added, shows the output of its command and sets vm_status to its
# exit code, or to 125 and says why when there is none. What the guest left in /kmmd-test/out is in $vm_work/out then.
vm_boot() {
	local root=$lab/$vm_release console=$vm_logs/console.log accel=('tcg,thread=single,tb-size=512') cpu=max
	if [[ ${KMMD_VM_ACCEL:-tcg} == tcg ]]; then
		# What is fast on a real processor and slow when emulated: strings byte by byte, five levels of page tables, a switch
		# around each access of the kernel to a process, wide registers and that they are saved, and checksums by an instruction
		# of their own.
		cpu+=,-erms,-fsrm,-la57,-smap,-smep,-xsave,-avx,-avx2,-sse4.2
		# And what is wrong: QEMU 7.2 may set all flags but ZF to a word of the program's own after cmpxchg16b, with which the
		# kernel takes free memory. An interrupt at the next instruction keeps them (IOPL, NT, AC), and the kernel dies.
		cpu+=,-cx16
	else
		accel=("$KMMD_VM_ACCEL")
	fi
	pack_cpio "$vm_work/guest" "$vm_work/guest.cpio"
	cat "${vm_base:-$root/base.cpio}" "$root/modules.cpio" "$vm_work/guest.cpio" >"$vm_work/initrd"
	: >"$console" # is there also when qemu does not start
	vm_machine
	vm_disks
	# A panic ends the VM, as a reset does, but where a test resets it.
	[[ -n ${KMMD_VM_RESETS:-} ]] || vm_qemu+=(-no-reboot)
	# We hold the pipe open until qemu has ended: the reader must neither wait for a qemu that never came up to open
	# it, nor see its end too early.
	mkfifo "$vm_work/output"
	local hold
	exec {hold}<>"$vm_work/output"
	vm_output <"$vm_work/output" {hold}>&- &
	local reader=$!
	vm_pids+=("$reader")
	local why="qemu ended without the exit code of the command" code=0 again
	for again in 1 2 ""; do
		code=0
		# shellcheck disable=SC2206 # KMMD_VM_QEMU is a list of words
		background qemu-system-x86_64 \
			-accel "${accel[@]}" -cpu "$cpu" -smp "${KMMD_VM_CPUS:-2}" -m "${KMMD_VM_MEMORY:-1024}" \
			-nodefaults -display none -monitor none "${vm_qemu[@]}" \
			-netdev user,id=net0 -device virtio-net-pci,netdev=net0,romfile= \
			-serial "file:$console" -serial "file:$vm_work/output" -serial "file:$vm_work/out.tar" \
			${KMMD_VM_QEMU:-} </dev/null >"$vm_logs/qemu.log" 2>&1
		wait "${vm_pids[-1]}" || code=$?
		[[ $again ]] && vm_kernel_failed || break
		echo "${0##*/}: kernel $vm_release: $vm_failure (console-$again.log); once more" >&2
		mv "$console" "$vm_logs/console-$again.log"
	done
	((code != 124)) || why="no end after $vm_timeout s (KMMD_VM_TIMEOUT)"
	exec {hold}>&-
	wait "$reader" || true
	vm_results "$why"
}

# vm_results WHY unpacks what the guest sent.
vm_results() {
	mkdir -p "$vm_work/out"
	tar -C "$vm_work/out" -xf "$vm_work/out.tar" 2>/dev/null || true
	[[ ! -f $vm_work/out/dmesg ]] || cp "$vm_work/out/dmesg" "$vm_logs/dmesg"
	vm_status=$(cat "$vm_work/out/exit-code" 2>/dev/null || true)
	if [[ -z $vm_status ]]; then
		vm_status=125
		{
			printf '%s: kernel %s: %s\n' "${0##*/}" "$vm_release" "$1"
			cat "$vm_logs/qemu.log"
			printf -- '--- console (%s)\n' "$vm_saved_logs/console.log"
			tr -d '\r' <"$vm_logs/console.log"
		} >&2
	fi
}
