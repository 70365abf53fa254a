#!/bin/sh
# The text of --help is this block.
#: Check that this checkout does what README promises: a line, a tick and a time for each step.
#:
#:   scripts/validate.sh [--operations N] [--isolation LEVEL] [--languages LIST]
#:   scripts/validate.sh --docker [--operations N]
#:
#: Makes the environment and the compilers when they are missing, builds the samples, starts a node
#: of its own, runs the workload, deploys, lists, and gives TypeScript to an empty VM. Everything it
#: started is ended and everything it made outside .venv and the build cache is removed, also after
#: a failure, which shows what the failing command said and ends with status 1.
#:
#:   --operations N      messages per application (default: 3)
#:   --isolation LEVEL   auto, firecracker, qemu or process (default: auto)
#:   --languages LIST    whose samples must build (default: python,go,rust,typescript)
#:   --docker            the same through Docker Compose, in a project of its own
set -eu
cd "$(dirname "$0")/.."
unset PLEXSPACES_NODE_ADDRESS PLEXSPACES_CONFIG 2>/dev/null || true

refuse() {
    printf 'error: %s\nhint: scripts/validate.sh --help\n' "$1" >&2
    exit 2
}

operations=3 isolation=auto languages=python,go,rust,typescript docker=
while [ $# -gt 0 ]; do
    case $1 in
        --help | -h) sed -n 's/^#: \{0,1\}//p' "$0"; exit 0 ;;
        --docker) docker=yes; shift ;;
        --operations | --isolation | --languages)
            [ $# -gt 1 ] || refuse "$1 has no value"
            case $1 in
                --operations) operations=$2 ;;
                --isolation) isolation=$2 ;;
                --languages) languages=$2 ;;
            esac
            shift 2 ;;
        *) refuse "there is no option $1" ;;
    esac
done
case $operations in
    '' | *[!0-9]* | 0) refuse "--operations takes a number above 0, not '$operations'" ;;
esac
case $isolation in
    auto | firecracker | qemu | process) ;;
    *) refuse "unknown isolation level '$isolation'" ;;
esac
samples=
for language in $(printf '%s' "$languages" | tr , ' '); do
    case $language in
        python | go | rust) samples="$samples $(cd examples && echo "$language"-*)" ;;
        typescript) samples="$samples $(cd examples && echo ts-*)" ;;
        *) refuse "there is no language '$language'" ;;
    esac
done
# shellcheck disable=SC2086 # a list of words
set -- $samples
[ $# -gt 0 ] || refuse "--languages names none"
case $languages in
    *python*) ;;
    *) refuse "--languages must have python, which is deployed and listed" ;;
esac

# shellcheck source=scripts/validation.sh
. scripts/validation.sh

# ---- on this machine ------------------------------------------------------------------------

prerequisites() {
    for program in make git "${PYTHON:-python3}"; do
        command -v "$program" || { echo "error: there is no $program"; return 1; }
    done
    "${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
        echo "error: Python 3.11 or newer is needed"
        return 1
    }
    fact "$("${PYTHON:-python3}" --version)"
}

environment() {
    # What is there is taken as it is: a validation must not change what it validates.
    [ -x .venv/bin/plexspaces ] || bounded 1800 make setup
    [ -e .venv/.toolchains ] || bounded 3600 make toolchains
    fact "$(plexspaces --version)"
}

native_programs() {
    bounded 3600 scripts/agent
    fact "$(plexspaces doctor --json | sed -n 's/^ *"detail": "\(.*\), sha256 .*plexspaces-agent",$/\1/p')"
}

# Only where a VMM could boot one; of its own, so that the user's is neither needed nor touched.
guest_image() {
    if [ "$isolation" = process ] ||
        ! { command -v firecracker || command -v qemu-system-x86_64; }; then
        fact "not needed"
        return 0
    fi
    bounded 900 plexspaces image build --dir "$work/image"
    fact "$(sed -n 's/^ *"digest": "\(.\{12\}\).*/\1/p' "$work/image/image.json")"
}

node_started() {
    tries=0
    until grep -qs 'Address:' "$work/node.out"; do
        if ! kill -0 "$node" 2>/dev/null || [ $tries -ge 1200 ]; then
            cat "$work/node.out" "$work/node.log"
            return 1
        fi
        tries=$((tries + 1))
        sleep 0.1
    done
    fact "$(isolation_of "$work/node.out")"
}

build_sample() {
    bounded 1800 plexspaces build "examples/$1" -o "$artifacts/$1.wasm"
    fact "$(du -h "$artifacts/$1.wasm" | cut -f 1)"
}

node_stopped() {
    tries=0
    while kill -0 "$node" 2>/dev/null; do
        [ $tries -lt 600 ] || { echo "error: the node does not end"; cat "$work/node.log"; return 1; }
        tries=$((tries + 1))
        sleep 0.1
    done
    left=$(ls "$work/data/vms")
    [ -z "$left" ] || { echo "error: machines were left: $left"; return 1; }
    for process in /proc/[0-9]*/cmdline; do
        ! tr '\0' ' ' <"$process" 2>/dev/null | grep -qF -- "$work/data/vms/" || {
            echo "error: a process was left: $process"
            return 1
        }
    done
    fact "no process, no directory left"
}

on_this_machine() { # on_this_machine SAMPLE...
    PATH="$PWD/.venv/bin:$PATH"
    artifacts=$work/wasm
    mkdir "$artifacts"
    px() { bounded 900 plexspaces "$@"; }
    node=
    at_end() {
        [ -n "$node" ] || return 0
        kill -TERM "$node" 2>/dev/null || true
        wait "$node" || true
    }

    step prerequisites prerequisites
    step environment environment
    step "native programs" native_programs
    for sample in "$@"; do
        step "build $sample" build_sample "$sample"
    done
    step "guest image" guest_image
    if [ -e "$work/image/image.json" ]; then
        export PLEXSPACES_GUEST_KERNEL_PATH="$work/image/vmlinux"
        export PLEXSPACES_GUEST_ROOTFS_PATH="$work/image/rootfs.erofs"
    fi
    plexspaces start-node --node-id validate --address 127.0.0.1:0 --isolation "$isolation" \
        --data-dir "$work/data" >"$work/node.out" 2>"$work/node.log" &
    node=$!
    step "empty node" node_started
    PLEXSPACES_NODE_ADDRESS=$(sed -n 's/^ *Address: *//p' "$work/node.out")
    export PLEXSPACES_NODE_ADDRESS
    # `run` takes every sample whose compiler is there, and there may be more than were asked for.
    step workload check_workload "$#"
    step deploy check_deploy
    step listing check_listing
    step undeploy check_undeploy
    if [ -e "$artifacts/ts-greeter.wasm" ]; then
        step "empty VM + TypeScript" check_empty_vm
    fi
    kill -TERM "$node"
    step "end of the node" node_stopped
    node=
}

# ---- in Docker ------------------------------------------------------------------------------

docker_there() {
    docker version --format 'Docker {{.Server.Version}}' >"$work/engine"
    fact "$(cat "$work/engine"), $compose, $1"
}

# $compose is two words where it is a plugin of docker.
# shellcheck disable=SC2086
compose_node() {
    bounded 300 $compose up -d node
    tries=0
    until [ "$(docker inspect --format '{{.State.Health.Status}}' "$($compose ps -q node)")" = healthy ]; do
        [ $tries -lt 120 ] || { $compose logs node; return 1; }
        tries=$((tries + 1))
        sleep 1
    done
    $compose logs --no-color node >"$work/logs"
    fact "$(isolation_of "$work/logs")"
}

# shellcheck disable=SC2086,SC2317
in_docker() { # in_docker SAMPLE...
    command -v docker >/dev/null 2>&1 ||
        fail "there is no docker command" "install Docker, or: scripts/test-docker.sh --buildah"
    docker version >/dev/null 2>&1 || fail "no Docker engine answers at ${DOCKER_HOST:-its socket}" \
        "start it: sudo systemctl start docker; without one: scripts/test-docker.sh --buildah"
    # Compose of today, or the one that Debian 12 has.
    if docker compose version >/dev/null 2>&1; then
        compose="docker compose"
    elif command -v docker-compose >/dev/null 2>&1; then
        compose="docker-compose"
    else
        fail "there is no Docker Compose" "apt-get install docker-compose-plugin, or docker-compose"
    fi

    # Of its own, so that a project that runs here is neither needed nor touched.
    export COMPOSE_PROJECT_NAME="plexspaces-validate-$$"
    export COMPOSE_FILE=compose.yaml PLEXSPACES_NODE_PORT=0 PLEXSPACES_HTTP_PORT=0 PLEXSPACES_NODE_ISOLATION="$isolation"
    kvm="no KVM"
    # A device that no group but root's may open would mean a node that is root.
    if [ -c /dev/kvm ] && [ "$(stat -c %G /dev/kvm)" != root ]; then
        kvm="/dev/kvm"
        KVM_GID=$(stat -c %g /dev/kvm)
        export KVM_GID COMPOSE_FILE=compose.yaml:compose.kvm.yaml
    fi
    # shellcheck disable=SC2329 # called by validation.sh, whatever way it ends
    at_end() { bounded 120 $compose down --volumes --timeout 30; }
    px() { bounded 900 $compose run --rm -T polyglot-test polyglot_wasm_deployment "$@"; }
    # shellcheck disable=SC2034 # of the checks
    artifacts=wasm

    step "docker engine" docker_there "$kvm"
    step "build of the images" bounded 7200 $compose build
    step "empty node" compose_node
    step workload check_workload "$#"
    step deploy check_deploy
    step listing check_listing
    step undeploy check_undeploy
    step "empty VM + TypeScript" check_empty_vm
    step "end of the node" at_end
    at_end() { :; }
}

if [ -n "$docker" ]; then in_docker "$@"; else on_this_machine "$@"; fi
summary
