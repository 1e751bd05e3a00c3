#!/bin/bash
# Runs a command under a kernel that has a Soft-RoCE device, rxe0.
#
#   run_in_guest.sh [options] [--] COMMAND [ARG...]
#
# The guest sees this machine's root file system (Python, virtual environments,
# checkout) at the same paths, under an overlay whose writes are discarded.
# COMMAND runs there as root, in the caller's working directory and with its
# environment, with an empty stdin.  Its stdout and stderr come out on stdout.
# The exit status is the command's; 124 after a timeout; 125 if the guest itself
# failed, in which case its kernel's messages are on stderr.
#
#   --engine uml|qemu  uml: User-mode Linux, one processor, native speed
#                      qemu: Debian's kernel, emulated, 10 to 30 times slower
#                      (default: uml)
#   --memory MIB       guest memory (3072; taken only as it is used)
#   --timeout S        kill the guest after S seconds (600)
#   --rw DIR           share DIR read-write; may be repeated; no spaces
#   --hostname NAME    (rxe)
#   --address A/LEN    IPv4 address of the interface below rxe0 (10.77.0.1/24)
#   --mtu N            its MTU (4500: enough for RoCE packets of 4096 bytes)
#   --link-fd N        wire that interface to the inherited datagram socket N;
#                      run_in_two_guests.py makes a pair of them
#   --accel A          QEMU's accelerator (tcg); `kvm` where virtualisation works
#   --console          copy the guest kernel's messages to stderr
#
# A process in User-mode Linux may have some 65,000 pieces of memory
# (vm.max_map_count): 250 MB at the worst, usually several times as much.  One
# that needs more dies of SIGSEGV, and that is said here on stderr.
#
# Opens no network port.  Needs root, /dev/shm (uml: the guest's memory is a sparse
# file there, or in $TMPDIR) and permission to ptrace (uml).
# shellcheck disable=SC2054,SC2317,SC2329  # commas in array elements; trap handler
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${KVSIM_RDMA_GUEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kvsim/rdma-guest}

engine=uml
memory=3072 limit=600 rw=() hostname=rxe address=10.77.0.1/24 mtu=4500 link='' accel=tcg console=''
while (($#)); do
    case $1 in
    --engine) engine=$2 ;;
    --memory) memory=$2 ;;
    --timeout) limit=$2 ;;
    --rw) rw+=("$(cd "$2" && pwd)") ;;
    --hostname) hostname=$2 ;;
    --address) address=$2 ;;
    --mtu) mtu=$2 ;;
    --link-fd) link=$2 ;;
    --accel) accel=$2 ;;
    --console) console=1; shift; continue ;;
    --) shift; break ;;
    -*) echo "unknown option $1" >&2; exit 2 ;;
    *) break ;;
    esac
    shift 2
done
(($#)) || { echo "no command" >&2; exit 2; }
[[ -z $link || -e /dev/fd/$link ]] || { echo "no descriptor $link" >&2; exit 2; }

"$here/prepare.sh" "$engine" >&2

ctl=$(mktemp -d) guest=''
cleanup() {
    [[ -z $guest ]] || kill -KILL "$guest" 2>/dev/null || true
    rm -rf "$ctl"
}
trap cleanup EXIT
trap 'exit 143' TERM
trap 'exit 130' INT

# What the guest reads: its settings, and the command with its environment.
printf 'hostname=%q address=%q mtu=%q rw=%q cpu_mhz=%q\n' "$hostname" "$address" "$mtu" "${rw[*]-}" \
    "$(awk '/^cpu MHz/ {print $NF; exit}' /proc/cpuinfo)" >"$ctl/conf"
{
    export -p
    printf 'cd %q || exit 125\nexec' "$PWD"
    printf ' %q' "$@"
} >"$ctl/command"
# Two linked guests must have different MAC addresses: made from their IP ones.
IFS=. read -r a b c d <<<"${address%/*}"
mac=$(printf '52:54:%02x:%02x:%02x:%02x' "$a" "$b" "$c" "$d")

case $engine in
uml)
    # Standard output goes to the second console, con1; con0 is the kernel's.
    run=("$cache/linux-uml" "mem=${memory}M" rootfstype=hostfs rootflags=/ ro
         "init=$here/guest_init.sh" "rxe_ctl=$ctl" "uml_dir=$ctl/" umid=uml
         quiet panic=-1 con=null con0=null,fd:2 con1=null,fd:3)
    [[ -z $link ]] || run+=("vec0:transport=fd,fd=4,mtu=$mtu,mac=$mac")
    ;;
qemu)
    # -smp 1: a second emulated processor gains nothing on a busy machine.
    run=(qemu-system-x86_64 -accel "$accel" -M q35 -cpu max -m "$memory"
         -nodefaults -no-user-config -no-reboot -display none
         -kernel "$cache/vmlinux" -initrd "$cache/initramfs"
         -append "console=ttyS0 quiet panic=-1 mitigations=off nokaslr tsc=reliable no_timer_check random.trust_cpu=on audit=0 apparmor=0"
         -serial "file:$ctl/kernel"
         -device virtio-serial-pci -add-fd fd=3,set=1
         -chardev "file,id=out,path=/dev/fdset/1,append=on" -device virtserialport,chardev=out
         -virtfs "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap"
         -virtfs "local,path=$ctl,mount_tag=ctl,security_model=none")
    i=0
    for dir in ${rw[@]+"${rw[@]}"}; do
        run+=(-virtfs "local,path=$dir,mount_tag=rw$i,security_model=none,multidevs=remap")
        i=$((i + 1))
    done
    [[ -z $link ]] || run+=(-netdev "dgram,id=net0,local.type=fd,local.str=4"
        -device "virtio-net-pci,netdev=net0,mac=$mac,romfile=,host_mtu=$mtu")
    ;;
*) echo "unknown engine $engine" >&2; exit 2 ;;
esac

# The guest's output, descriptor 3, is a pipe whatever stdout is; the link is
# descriptor 4.
mkfifo "$ctl/out"
cat "$ctl/out" &
reader=$!
# The guest and all its processes live in a PID name space of their own, which
# dies with this script, however that ends.
setpriv --pdeathsig KILL unshare --pid --fork --kill-child=KILL \
    timeout --signal KILL "$limit" "${run[@]}" 4<&"${link:-0}" 3>"$ctl/out" </dev/null >"$ctl/log" 2>&1 &
guest=$!
rc=0
{ wait "$guest" || rc=$?; } 2>/dev/null # no "Killed" from bash
guest=''
wait "$reader" || true

# A process of User-mode Linux is one of this machine, with a mapping for each piece of its memory that is not in one
# piece in the guest's. At the limit of those its kernel ends it with SIGSEGV, which no handler of its own sees.
if grep -qs 'ran out of memory on the host side' "$ctl/log"; then
    echo "rxe guest: its kernel ended a process (SIGSEGV) that needed more mappings of memory than this machine allows," \
        "$(cat /proc/sys/vm/max_map_count); for larger ones: sysctl -w vm.max_map_count=1048576, or --engine qemu" >&2
fi

messages() { cat "$ctl/log" "$ctl/kernel" >&2 2>/dev/null || true; }
if [[ -s $ctl/status ]]; then
    [[ -z $console ]] || messages
    exit "$(cat "$ctl/status")"
fi
messages
if ((rc == 137)); then echo "rxe guest: killed after $limit s" >&2; exit 124; fi
echo "rxe guest: ended without an exit status ($rc)" >&2
exit 125
