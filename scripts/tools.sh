#!/bin/sh
# Sees to the programs that tests run and pip does not bring. As root of a Debian or Ubuntu it
# installs what is missing; elsewhere it says in one line what that is, and tests that need it are
# skipped. Says and does nothing where nothing is missing. Makes the file named as the first
# argument when all is there.
set -eu

# A program, and the package that has it.
needed="
cc        gcc
clang     clang
curl      curl
fish      fish
groff     groff-base
ip        iproute2
iperf3    iperf3
jq        jq
mandoc    mandoc
nft       nftables
openssl   openssl
pgrep     procps
setpriv   util-linux
ssh       openssh-client
sudo      sudo
tcpdump   tcpdump
unshare   util-linux
zsh       zsh
"

# A server for logins is not brought to a machine that would start it.
[ -d /run/systemd/system ] || needed="$needed
sshd      openssh-server
"

missing() {
    echo "$needed" | while read -r program package; do
        [ -z "$program" ] || command -v "$program" >/dev/null || echo "$package"
    done | xargs
}

# Where ordinary users do not look, and some of these are.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
packages=$(missing)
if [ -n "$packages" ] && [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
    echo "Installing what tests run: $packages ..."
    export DEBIAN_FRONTEND=noninteractive
    # shellcheck disable=SC2086 # Each is a word.
    { apt-get update -qq && apt-get install -qq -y --no-install-recommends $packages; } \
        </dev/null >/dev/null || true
    packages=$(missing)
fi
if [ -n "$packages" ]; then
    echo "Tests that need one of these are skipped: $packages (sudo apt install $packages)" >&2
else
    touch "$1"
fi
