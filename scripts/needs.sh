# shellcheck shell=sh disable=SC2154
# What the distribution has to provide, and how it is asked for. Sourced by scripts/bootstrap, which defines
# say, die, logged and $uid. A need is a word: bash, curl, util-linux, compiler, libcap, headers, pip.

# Prints the needs that are not met. $1 is the Python interpreter, empty while there is none.
missing_needs() {
    command -v bash >/dev/null || echo bash
    command -v curl >/dev/null || echo curl
    command -v flock >/dev/null && command -v setpriv >/dev/null || echo util-linux
    # python-prctl is built from source; it calls cpp to look for sys/capability.h.
    if ! command -v cpp >/dev/null || ! echo 'int main(void) { return 0; }' | can_compile; then
        echo compiler libcap
    elif ! printf '#include <sys/capability.h>\nint main(void) { return 0; }' | can_compile -lcap; then
        echo libcap
    fi
    [ -z "$1" ] || "$1" -I -c 'if 1:
        import os, sys, sysconfig
        sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' || echo headers
}

can_compile() { # C source on standard input; the arguments go to the compiler
    scratch=$(mktemp -d) || return
    "${CC:-cc}" -xc -o "$scratch/out" - "$@" >/dev/null 2>&1
    compiled=$?
    rm -rf -- "$scratch"
    return "$compiled"
}

package_manager() {
    for manager in apt-get dnf apk zypper pacman; do
        if command -v "$manager" >/dev/null; then
            echo "$manager"
            return
        fi
    done
}

# The packages that satisfy need $2 with package manager $1; $3 is the version of Python, like 3.12.
packages() {
    case $1:$2 in
        apt-get:compiler) echo gcc libc6-dev ;;
        apk:compiler) echo gcc musl-dev linux-headers ;;
        *:compiler) echo gcc ;;
        apt-get:libcap | apk:libcap) echo libcap-dev ;;
        pacman:libcap) echo libcap ;;
        *:libcap) echo libcap-devel ;;
        apt-get:headers) echo "python$3-dev" ;;
        apk:headers) echo python3-dev ;;
        pacman:headers) echo python ;;
        zypper:headers) echo "python$3-devel" | tr -d . ;;
        *:headers) echo "python$3-devel" ;;
        apt-get:pip) echo python3-venv ;;
        apk:pip) echo py3-pip ;;
        pacman:pip) echo python-pip ;;
        *:pip) echo python3-pip ;;
        apk:util-linux) echo flock setpriv ;;
        *) echo "$2" ;;
    esac
}

install_command() {
    case $1 in
        apt-get) echo apt-get install --yes --no-install-recommends ;;
        dnf) echo dnf install --assumeyes ;;
        apk) echo apk add ;;
        zypper) echo zypper --non-interactive install ;;
        pacman) echo pacman -S --needed --noconfirm ;;
    esac
}

# Installs what the needs $1 (words) stand for when that is allowed without a question; otherwise says how.
# $2 is the Python interpreter or empty.
# shellcheck disable=SC2046,SC2086 # lists of words are left unquoted on purpose
provide() {
    manager=$(package_manager)
    [ -n "$manager" ] ||
        die "missing:" $1 "(no package manager that this script knows: install them, then repeat the command)"
    version=
    [ -z "$2" ] || version=$("$2" -I -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    wanted=
    for need in $1; do
        case $need:$2 in headers:/usr/bin/*) ;; headers:*)
            die "$2 has no header files (put another CPython >= 3.12 first on the path, then repeat the command)"
            ;;
        esac
        wanted="$wanted $(packages "$manager" "$need" "$version")"
    done
    set -- $(install_command "$manager") $wanted
    as_root=
    if [ "$uid" != 0 ]; then
        if ! command -v sudo >/dev/null || ! sudo -n true 2>/dev/null; then
            die "missing packages:$wanted (run: sudo $* ; then repeat the command)"
        fi
        as_root="sudo -n"
    fi
    say "installing$wanted"
    case $manager in
        # An index that cannot be refreshed is fatal only if the package is then not found.
        apt-get) logged $as_root apt-get -o DPkg::Lock::Timeout=300 update ;;
        pacman) logged $as_root pacman -Sy ;;
    esac
    logged $as_root env DEBIAN_FRONTEND=noninteractive "$@" </dev/null ||
        die "could not install$wanted (run: ${as_root:+sudo }$* ; log: $log)"
}
