# shellcheck shell=sh
# Runs one half of the tests, from the checkout's folder: half.sh root|rootless WORK VENV [PYTEST ARGUMENT]…
#
# For an ordinary user that is a call of pytest in a clean environment. Root's halves are started by scripts/test
# in a mount namespace of their own, so that what is mounted here is seen nowhere else: the checkout is read-only,
# and in the rootless half everything that the ordinary user needs can be reached. WORK is for this run only.
set -u
half=$1 work=$2 venv=$3
shift 3
root=$PWD
user=nsharness-test

die() {
    printf 'nsharness: %s\n' "$*" >&2
    exit 125
}
must() { "$@" || die "the $half half cannot be prepared: $1 failed (as root in a container: give it CAP_SYS_ADMIN)"; }
as_user() { setpriv --reuid "$user" --regid "$user" --init-groups --inh-caps=-all "$@"; }
number_of() { printf %s "$1" | sha256sum | cut -c -16; }

# --- what the ordinary user cannot reach --------------------------------------------------------------------

# The uppermost folder on the way to $1, itself included, that the ordinary user cannot pass.
barrier() {
    rest=${1#/} path=
    while [ -n "$rest" ]; do
        path=$path/${rest%%/*}
        case $rest in */*) rest=${rest#*/} ;; *) rest= ;; esac
        if ! as_user test -x "$path"; then
            printf '%s\n' "$path"
            return
        fi
    done
}

# The interpreter may be below /root, the checkout below a folder with mode 0700. Such an ancestor is covered by an
# empty tmpfs, and what is needed is bound back below it under its own name. The checkout becomes a copy, because
# with umask 077 its files could not be read either.
make_reachable() {
    must mkdir -p "$work/checkout/.venv" "$work/kept"
    must tar -c --exclude=./.git --exclude='./.venv*' --exclude='./.*_cache' . >"$work/checkout.tar"
    must tar -C "$work/checkout" -x --no-same-owner -f "$work/checkout.tar"
    must chmod -R go=u-w "$work/checkout"
    prefix=$("$venv/bin/python" -I -c 'import sys; print(sys.base_prefix)')
    for path in "$venv" "$prefix" "$(readlink -f -- "$prefix")"; do
        printf '%s\n' "$path"
    done | sort -u >"$work/needed"
    { barrier "$(dirname "$root")" && while read -r path; do barrier "$path"; done; } <"$work/needed" |
        sort -u >"$work/barriers"
    while read -r path; do # hold on to each before anything is covered
        must mkdir "$work/kept/$(number_of "$path")"
        must mount --rbind -- "$path" "$work/kept/$(number_of "$path")"
    done <"$work/needed"
    while read -r path; do
        must mount -t tmpfs -o mode=0755,size=16m "$user" "$path"
    done <"$work/barriers"
    must mkdir -p -- "$root"
    must mount --bind -- "$work/checkout" "$root"
    while read -r path; do
        if [ "$(stat -c %d:%i -- "$path" 2>&1)" != "$(stat -c %d:%i "$work/kept/$(number_of "$path")")" ]; then
            must mkdir -p -- "$path"
            must mount --rbind -- "$work/kept/$(number_of "$path")" "$path"
        fi
        as_user test -x "$path" || die "the user $user cannot use $path (run: chmod -R go+rX $path)"
    done <"$work/needed"
    must mount -o remount,bind,ro -- "$root"
    cd -- "$root" || die "cannot enter $root"
    as_user "$venv/bin/python" -I -c 'import nsharness, nsharness_proxy, nsharness_mocks, pytest' ||
        die "the user $user cannot run $venv/bin/python (run: chmod -R go+rX $venv $prefix)"
}

# In the root half the ordinary user may use sudo, so that tests can go through a real one.
allow_sudo() {
    [ -d /etc/sudoers.d ] || return 0
    must cp -a /etc/sudoers.d "$work/sudoers.d"
    echo "$user ALL=(ALL:ALL) NOPASSWD:SETENV: ALL" >"$work/sudoers.d/$user"
    must chmod 0440 "$work/sudoers.d/$user"
    must mount --bind "$work/sudoers.d" /etc/sudoers.d
}

# --- main ---------------------------------------------------------------------------------------------------

as=
home=${HOME:-$work}
if [ "$(id -u)" = 0 ]; then
    user_home=$(getent passwd "$user" | cut -d : -f 6)
    must mkdir -p -- "$user_home" "$work/home"
    must chown "$user:" "$work/home" "$work/tmp"
    must mount --bind -- "$work/home" "$user_home"
    if [ "$half" = rootless ]; then
        make_reachable
        as=as_user
        home=$user_home
    else
        must mount --bind -- "$root" "$root"
        must mount -o remount,bind,ro -- "$root"
        cd -- "$root" || die "cannot enter $root"
        allow_sudo
    fi
fi
# A variable is passed on only when it is set.
$as env -i HOME="$home" TMPDIR="$work/tmp" HYPOTHESIS_STORAGE_DIRECTORY="$work/tmp/hypothesis" LANG=C.UTF-8 \
    PATH="$venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" \
    ${CI:+CI="$CI"} ${TERM:+TERM="$TERM"} ${COLUMNS:+COLUMNS="$COLUMNS"} ${NO_COLOR:+NO_COLOR="$NO_COLOR"} \
    "$venv/bin/python" -m pytest -p no:cacheprovider "$@"
