#!/bin/busybox sh
# PID 1 of the guest, in both engines of run_in_guest.sh.
#
# Stage 1 puts a throw-away overlay over the host's root file system, which it
# finds at / (User-mode Linux) or fetches over 9p (QEMU, from an initramfs).
# Stage 2 runs inside that overlay: it sets up Soft-RoCE and runs the command.
# shellcheck shell=dash disable=SC1091,SC2154,SC2016
b=/bin/busybox

stage1() {
    $b mount -t proc proc /proc
    if [ -d /modules ]; then # QEMU
        $b mount -t devtmpfs dev /dev
        for m in /modules/boot/*; do $b insmod "$m"; done
        $b mkdir /host /over
        # cache=loose: the share is read-only, and a test does not expect its
        # files to change below it.  Without it every import crawls.
        $b mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=262144,cache=loose host /host
        lower=/host over=/over
    else # User-mode Linux
        lower=/ over=/run
    fi
    $b mount -t tmpfs -o size=75% over $over
    $b mkdir $over/upper $over/work $over/new
    new=$over/new
    $b mount -t overlay -o lowerdir=$lower,upperdir=$over/upper,workdir=$over/work root $new

    # /run is fresh; below it is what the second stage needs.
    $b mount -t tmpfs run $new/run
    $b mkdir $new/run/rxe $new/run/rxe/ctl $new/run/rxe/old
    $b cp $b "$0" $new/run/rxe/
    $b mount -t proc proc $new/proc
    $b mount -t sysfs sys $new/sys
    $b mount -t devtmpfs dev $new/dev
    if [ -d /modules ]; then
        $b cp -r /modules/rdma $new/run/rxe/
        $b mount -t 9p -o trans=virtio,version=9p2000.L,cache=none ctl $new/run/rxe/ctl
        exec $b switch_root $new /run/rxe/busybox sh "/run/rxe/${0##*/}" stage2
    else # $rxe_ctl comes from the kernel's command line
        $b mount -t hostfs -o "$rxe_ctl" ctl $new/run/rxe/ctl
        cd $new || exit
        $b pivot_root . run/rxe/old
        exec $b chroot . /run/rxe/busybox sh "/run/rxe/${0##*/}" stage2
    fi
}

stage2() {
    b=/run/rxe/busybox
    ctl=/run/rxe/ctl
    . $ctl/conf # hostname= address= mtu= rw= cpu_mhz=

    $b umount -l /run/rxe/old 2>/dev/null
    $b mkdir -p /dev/pts /dev/shm
    $b mount -t devpts -o mode=620,ptmxmode=666 devpts /dev/pts
    $b mount -t tmpfs -o mode=1777 shm /dev/shm
    [ -e /dev/fd ] || $b ln -s /proc/self/fd /dev/fd

    # Directories shared read-write (--rw).
    i=0
    for dir in $rw; do
        if [ -d /run/rxe/rdma ]; then
            $b mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144,cache=mmap rw$i "$dir"
        else
            $b mount -t hostfs -o "$dir" rw$i "$dir"
        fi
        i=$((i + 1))
    done

    # perftest takes its time from the processor's counter, and prints 0.00 where
    # it does not learn the counter's rate: User-mode Linux does not show it.
    if [ -n "$cpu_mhz" ] && ! $b grep -q "cpu MHz" /proc/cpuinfo; then
        { $b cat /proc/cpuinfo; echo "cpu MHz : $cpu_mhz"; } >/run/cpuinfo
        $b mount -o bind /run/cpuinfo /proc/cpuinfo
    fi

    for m in /run/rxe/rdma/*; do [ -e "$m" ] && $b insmod "$m"; done
    $b hostname "$hostname"
    $b ip link set lo up
    # The interface below rxe0: the link to the other guest, or else a dummy
    # (rxe short-cuts what a device sends to itself).
    nic=dummy0
    for n in eth0 vec0; do [ -e /sys/class/net/$n ] && nic=$n; done
    [ -e /sys/class/net/$nic ] || $b ip link add $nic type dummy
    # No duplicate address detection: it would delay the IPv6 GID by a second.
    echo 0 >/proc/sys/net/ipv6/conf/$nic/accept_dad
    $b ip link set $nic mtu "$mtu" up
    $b ip addr add "$address" dev $nic
    rdma link add rxe0 type rxe netdev $nic
    # GID 1 (RoCE v2, ::ffff:ADDRESS) appears asynchronously.
    await 'case $($b cat /sys/class/infiniband/rxe0/ports/1/gids/1) in *ffff:*) ;; *) false ;; esac'

    # The command's output: a virtio port (QEMU) or the second console (UML).
    if [ -d /run/rxe/rdma ]; then
        await '[ -e /dev/vport*p1 ]'
        out=$(echo /dev/vport*p1)
    else
        out=/dev/tty1
        $b stty -F "$out" raw
    fi
    $b cut -d' ' -f1 /proc/uptime >$ctl/booted
    # Through a pipe, so that the command does not take it for a terminal.
    { $b setsid /bin/bash $ctl/command </dev/null 2>&1; echo $? >$ctl/status; } | $b cat >"$out"
    $b sync
    # QEMU runs with -no-reboot; User-mode Linux just exits.
    if [ -d /run/rxe/rdma ]; then echo b >/proc/sysrq-trigger; else $b poweroff -f; fi
    $b sleep 60
}

await() { # CONDITION: until it holds, but at most 2 s
    for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
        eval "$1" && return
        $b usleep 100000
    done
}

if [ "$1" = stage2 ]; then stage2; else stage1; fi
