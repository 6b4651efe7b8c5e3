#!/bin/sh
# The first process of a guest. The kernel's command line gives it, as environment, OPENQWAVE_CTL:
# a folder of the host's with the command to run, where its exit status is left too.
#
# The root that the kernel has mounted is the host's, read-only. The command sees the same files
# under a layer in memory: it may write anywhere, and nothing of it reaches the host.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

mount -t proc proc /proc
mount -t tmpfs memory /mnt || exit 1
mkdir /mnt/host /mnt/changes /mnt/work /mnt/root
mount -t hostfs host /mnt/host -o / || exit 1
mount -t overlay root /mnt/root \
    -o lowerdir=/mnt/host,upperdir=/mnt/changes,workdir=/mnt/work || exit 1

cd /mnt/root || exit 1
mkdir -p proc sys dev run mnt/control
mount -t proc proc proc
mount -t sysfs sys sys
mount -t devtmpfs dev dev
mkdir -p dev/pts dev/shm
mount -t devpts devpts dev/pts
mount -t tmpfs shm dev/shm
mount -t tmpfs run run
mkdir -p run/lock run/netns
mount -t cgroup2 cgroup sys/fs/cgroup
mount -t bpf bpf sys/fs/bpf
mount -t hostfs control mnt/control -o "$OPENQWAVE_CTL" || exit 1
hostname other-kernel

# Where tunnels are built in, each new network would have one nobody asked for.
echo 2 >/proc/sys/net/core/fb_tunnels_only_for_init_net

# Its output goes to two consoles, which are the runner's standard output and error, byte by byte.
chroot . /bin/sh -c '
    ip link set lo up
    stty -F /dev/tty1 raw -echo
    stty -F /dev/tty2 raw -echo
    sh /mnt/control/command </dev/null >/dev/tty1 2>/dev/tty2
    echo $? >/mnt/control/status
    # Returns when the consoles have taken everything.
    stty -F /dev/tty1 >/dev/null
    stty -F /dev/tty2 >/dev/null'
echo o >/proc/sysrq-trigger
sleep 5
