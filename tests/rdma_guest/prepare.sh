#!/bin/bash
# Prepares what run_in_guest.sh needs, from the archive of Debian 12 only.
#
#   prepare.sh [--check] uml    compiles a User-mode Linux kernel with Soft-RoCE from Debian's kernel source: 4 minutes on
#                               two cores, 155 MB to download, 2 GB of disk while it lasts
#   prepare.sh [--check] qemu   takes Debian's own kernel for QEMU: 15 s, 90 MB
#
# --check changes nothing, and fails with the reason on stderr if there is something to do.
# Else needs root (apt-get). A second call returns at once. Results, some 80 MB, go to $KVSIM_RDMA_GUEST_CACHE
# (~/.cache/kvsim/rdma-guest if that is not set).
set -euo pipefail

check=''
if [[ ${1-} == --check ]]; then check=1; shift; fi
engine=${1:-uml}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${KVSIM_RDMA_GUEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kvsim/rdma-guest}

# What pyverbs needs at run time, plus tools. Debian's python3-pyverbs and rdma-core packages are left out: they would
# pull in udev and systemd.
packages=(busybox-static iproute2 libpython3.11 python3-venv libibverbs1 ibverbs-providers librdmacm1 ibverbs-utils perftest)
case $engine in
qemu) packages+=(qemu-system-x86) ;;
uml) packages+=(gcc make flex bison bc xz-utils libc6-dev) ;;
*) echo "usage: $0 [--check] uml|qemu" >&2; exit 2 ;;
esac

missing_packages() {
    comm -23 <(printf '%s\n' "${packages[@]}" | sort) \
        <(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "${packages[@]}" 2>/dev/null |
            sed -n 's/^installed //p' | sort)
}

# Built from the very files of this checkout, whatever their times are.
kernel_is_built() {
    case $engine in
    uml) [[ -e $cache/linux-uml ]] && cmp -s "$here/uml.config" "$cache/linux-uml.config" ;;
    qemu) [[ -e $cache/vmlinux ]] && cat "$here/guest_init.sh" "$here/unpack_kernel.py" | cmp -s - "$cache/initramfs.from" ;;
    esac
}

if [[ -n $check ]]; then
    [[ $(id -u) == 0 ]] || { echo "guests need root" >&2; exit 1; }
    command -v dpkg-query >/dev/null || { echo "guests are prepared with Debian's packages, which are not here" >&2; exit 1; }
    [[ -z $(missing_packages) ]] || { echo "not installed: $(missing_packages | tr '\n' ' ')" >&2; exit 1; }
    [[ -e $cache/pyverbs/pyverbs ]] || { echo "no pyverbs in $cache" >&2; exit 1; }
    kernel_is_built || { echo "no $engine kernel in $cache that was made from this checkout" >&2; exit 1; }
    exit
fi

updated=''
update() { [[ -n $updated ]] || apt-get update -qq; updated=1; }

install_missing() {
    local missing
    missing=$(missing_packages)
    [[ -n $missing ]] || return 0
    update
    # shellcheck disable=SC2086  # a list of words
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $missing >/dev/null
}

# Downloads a package into the current directory, without installing it.
download() {
    if compgen -G "$1_*.deb" >/dev/null; then return; fi
    update
    apt-get -qq -o APT::Sandbox::User=root download "$1"
}

# The pyverbs extension modules, for PYTHONPATH.
get_pyverbs() {
    [[ ! -e $cache/pyverbs/pyverbs ]] || return 0
    (cd "$work" && download python3-pyverbs && dpkg-deb -x python3-pyverbs_*.deb .)
    mkdir -p "$cache/pyverbs"
    mv "$work/usr/lib/python3/dist-packages/pyverbs" "$cache/pyverbs/"
}

# Debian's kernel, unpacked, and an initramfs. Not the -cloud- kernel: that one has neither rdma_rxe nor 9p.
build_qemu() {
    if ! compgen -G "$cache/linux-image-*.deb" >/dev/null; then
        update
        # linux-image-amd64 itself is empty: it depends on the current version.
        (cd "$cache" && download "$(apt-cache depends linux-image-amd64 | awk '/Depends: linux-image-/ {print $2; exit}')")
    fi
    dpkg-deb -x "$cache"/linux-image-*.deb "$work/kernel"
    python3 "$here/unpack_kernel.py" "$work/kernel" "$here/guest_init.sh" "$cache"
    cat "$here/guest_init.sh" "$here/unpack_kernel.py" >"$cache/initramfs.from"
}

# A kernel that is an ordinary program. One change to the source: room for the FPU state of processors with AMX.
build_uml() {
    (
        cd "$work"
        download linux-source-6.12
        dpkg-deb --fsys-tarfile linux-source-6.12_*.deb | tar -xO ./usr/src/linux-source-6.12.tar.xz | tar -xJ
        cd linux-source-6.12
        sed -i 's/DEFINE_LONGS(HOST_FP_SIZE, 2696)/DEFINE_LONGS(HOST_FP_SIZE, 12288)/' arch/x86/um/user-offsets.c
        grep -q 'HOST_FP_SIZE, 12288' arch/x86/um/user-offsets.c
        make -s ARCH=um KCONFIG_ALLCONFIG="$here/uml.config" allnoconfig
        make -s ARCH=um -j"$(nproc)" linux 2>&1 | grep -E '(error|Error)' || true
        strip -o "$cache/linux-uml.new" linux
    )
    mv "$cache/linux-uml.new" "$cache/linux-uml"
    cp "$here/uml.config" "$cache/linux-uml.config"
}

mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9
work=$(mktemp -d "$cache/tmp.XXXX")
trap 'rm -rf "$work"' EXIT
install_missing
get_pyverbs
kernel_is_built || "build_$engine"
