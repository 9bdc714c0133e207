# Shared by the scripts beside it; to be sourced by bash.

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
bin=$top/.build

say()  { if [ -t 2 ]; then printf '\033[1m== %s\033[0m\n' "$*"; else printf '== %s\n' "$*"; fi >&2; }
die()  { printf 'error: %s\n' "$1" >&2; [ $# -lt 2 ] || printf 'hint: %s\n' "$2" >&2; exit 1; }

# in_memory has temporary files made in memory, where there are 4 GB for them. Tests
# sync small files from many processes at a time; a process that is killed leaves
# the same there as on a disk, and no test takes the power away.
in_memory() {
  local free
  free=$(df --output=avail -k /dev/shm 2>/dev/null | tail -1)
  if [ -z "${TMPDIR:-}" ] && [ "${free:-0}" -gt 4194304 ] && ! findmnt -no OPTIONS /dev/shm | grep -qw noexec; then
    export TMPDIR=/dev/shm GOTMPDIR=${GOTMPDIR:-/tmp}
  fi
}

# need_packages COMMAND=PACKAGE ... installs what is missing: with apt-get when
# root, otherwise it says exactly what to install. A command that begins with a
# slash, or holds a *, is a file that must exist.
need_packages() {
  local missing=() pair
  for pair in "$@"; do
    local what=${pair%%=*} package=${pair#*=}
    case $what in
      *[*]*|/*) compgen -G "$what" >/dev/null || missing+=("$package") ;;
      *) command -v "$what" >/dev/null 2>&1 || missing+=("$package") ;;
    esac
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    say "installing ${missing[*]}"
    apt-get install -y -qq "${missing[@]}" >/dev/null 2>&1 ||
      { apt-get update -qq >/dev/null && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]}" >/dev/null; } ||
      die "could not install ${missing[*]}"
  else
    die "missing: ${missing[*]}" "sudo apt-get install ${missing[*]}   (or what your distribution calls them)"
  fi
}

# softhsm_module succeeds where SoftHSM is installed.
need_softhsm() {
  [ -n "${SOFTHSM2_MODULE:-}" ] && [ -e "$SOFTHSM2_MODULE" ] && return 0
  local f
  for f in /usr/lib/softhsm/libsofthsm2.so /usr/lib64/softhsm/libsofthsm2.so /usr/lib64/pkcs11/libsofthsm2.so \
           /usr/lib/*/softhsm/libsofthsm2.so /usr/local/lib/softhsm/libsofthsm2.so /usr/lib/libsofthsm2.so \
           /opt/homebrew/lib/softhsm/libsofthsm2.so; do
    [ -e "$f" ] && command -v softhsm2-util >/dev/null 2>&1 && return 0
  done
  need_packages '/usr/lib/softhsm/libsofthsm2.so=softhsm2'
}

need_go() {
  command -v go >/dev/null 2>&1 || die "Go is not installed" "install Go $(sed -n 's/^go //p' "$top/go.mod") or later from your distribution or the Go project"
  command -v gcc >/dev/null 2>&1 || command -v cc >/dev/null 2>&1 || need_packages 'gcc=gcc' '/usr/include/stdio.h=libc6-dev'
}

# vault_binary prints where the Vault for tests and benchmarks is, or is to be.
vault_binary() {
  printf '%s\n' "${CHANCERY_TEST_VAULT_BINARY:-${XDG_CACHE_HOME:-$HOME/.cache}/chancery/vault-$(sed -n 's/.*hashicorp\/vault v//p' "$top/scripts/vault/go.mod")}"
}

# buf_binary prints where the buf that looks at the gRPC schema is, or is to be.
buf_binary() {
  printf '%s\n' "${CHANCERY_TEST_BUF:-${XDG_CACHE_HOME:-$HOME/.cache}/chancery/buf-$(sed -n 's/.*bufbuild\/buf v//p' "$top/scripts/buf/go.mod")}"
}

# verifiers_directory prints where the verifiers and witnesses that scripts/verifiers
# builds are, or are to be.
verifiers_directory() {
  printf '%s\n' "${CHANCERY_TEST_VERIFIERS:-${XDG_CACHE_HOME:-$HOME/.cache}/chancery/verifiers-$(cat "$top"/scripts/verifiers/{go.mod,enrol/main.go} | cksum | cut -d' ' -f1)}"
}

# log_verifiers builds them and names their directory to the tests. Where they
# cannot be built, it says so.
log_verifiers() {
  if [ -n "${CHANCERY_TEST_VERIFIERS:-}" ]; then
    return 0
  elif timeout 600 "$top/scripts/verifiers/build" >/dev/null; then
    CHANCERY_TEST_VERIFIERS=$(verifiers_directory)
    export CHANCERY_TEST_VERIFIERS
  else
    say "no foreign verifier and no foreign witness looks at the log: scripts/verifiers/build cannot build them"
  fi
}

# node_verifiers installs the verifiers of npm's that tokens are tried with, and
# names their directory to the tests. Where they cannot be had, it says so.
node_verifiers() {
  export NODE_VERIFIERS=$bin/node
  local packages='jose@6.2.18 jwks-rsa@4.1.0 jsonwebtoken@9.0.3 oauth4webapi@3.8.8'
  [ "$(cat "$NODE_VERIFIERS/packages" 2>/dev/null)" = "$packages" ] && return 0
  rm -rf "$NODE_VERIFIERS" && mkdir -p "$NODE_VERIFIERS"
  if command -v node >/dev/null 2>&1 && command -v npm >/dev/null 2>&1 &&
     ( cd "$NODE_VERIFIERS" && timeout 120 npm install --no-audit --no-fund --ignore-scripts --silent $packages >/dev/null 2>&1 ); then
    printf '%s\n' "$packages" >"$NODE_VERIFIERS/packages"
  else
    say "jose, jwks-rsa and oauth4webapi do not verify tokens: there is no npm, or it cannot install them"
    unset NODE_VERIFIERS
  fi
}

build() {
  say "building chanceryd and chancery"
  mkdir -p "$bin"
  ( cd "$top" && go build -o "$bin/chanceryd" ./cmd/chanceryd && CGO_ENABLED=0 go build -o "$bin/chancery" ./cmd/chancery )
}
