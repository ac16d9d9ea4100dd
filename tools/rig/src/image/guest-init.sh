#!/bin/busybox sh
# The first process of a test guest. Words of the kernel's command line say what it does:
#   root=DEV       goes on with /sbin/init of the ext4 file system on DEV, which is this script again
#   guest.work=N   does N rounds of work and prints a line after each
#   guest.then=W   after that: poweroff, reboot, crash, idle, or shell (what happens if it is left out)
/bin/busybox mkdir -p /proc /sys /dev /tmp /run /root
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs devtmpfs /dev 2>/dev/null
/bin/busybox mount -t tmpfs tmpfs /tmp
export PATH=/bin:/sbin:/usr/bin HOME=/root

word() {
    for word in $(cat /proc/cmdline); do
        case $word in "guest.$1="*) echo "${word#*=}" ;; esac
    done
}

for module in $(cat /etc/modules 2>/dev/null); do insmod "$module"; done

root=
for word in $(cat /proc/cmdline); do
    case $word in root=*) root=${word#*=} ;; esac
done
if [ -n "$root" ] && [ "$0" = /init ]; then
    # The front end's kernel threads connect the disk meanwhile.
    tries=0
    until [ -b "$root" ]; do
        tries=$((tries + 1)); [ $tries -lt 1200 ] || { echo "guest: no $root"; break; }
        usleep 100000
    done
    mkdir /new
    if mount -t ext4 "$root" /new; then
        umount -l /tmp /dev /sys /proc
        exec switch_root /new /sbin/init
    fi
    echo "guest: cannot mount $root"
fi

# A virtual CPU that is added is brought up, as udev does on a whole distribution.
uevent sh -c '[ "$SUBSYSTEM/$ACTION" = cpu/add ] && echo 1 > "/sys$DEVPATH/online"' &

facts() {
    echo "cpus=$(nproc) memory=$(awk '/^MemTotal/ { print $2 }' /proc/meminfo)"
}

echo "guest: ready $(facts)"
rounds=$(word work)
round=0
while [ "$round" -lt "${rounds:-0}" ]; do
    round=$((round + 1))
    dd if=/dev/urandom of=/tmp/data bs=64k count=16 2>/dev/null
    cp /tmp/data /tmp/copy
    cmp -s /tmp/data /tmp/copy || { echo "guest: round $round: data differ"; break; }
    echo "guest: round $round of $rounds $(facts)"
done
rm -f /tmp/data /tmp/copy

case $(word then) in
    poweroff) echo "guest: powers off"; /sbin/poweroff ;;
    reboot) echo "guest: reboots"; /sbin/reboot ;;
    crash) echo "guest: crashes"; echo c > /proc/sysrq-trigger ;;
    idle) while :; do sleep 1000; done ;;
    *) while :; do setsid cttyhack sh -l; done ;;
esac
while :; do sleep 1000; done
