#!/bin/sh
# The text of --help is this block.
#: Build the images and try what docs/docker.md says of them: a line, a tick and a time a step.
#:
#:   scripts/test-docker.sh             with Docker's engine, and then scripts/validate.sh --docker
#:   scripts/test-docker.sh --buildah   without any engine, as root, on Debian or Ubuntu
#:
#: BASE, FIRECRACKER_VERSION, FIRECRACKER_SHA256, FIRECRACKER_URL, QEMU and BUILD_NETWORK mean what
#: they mean to Compose, see docs/docker.md. With --buildah the base image is made of the
#: distribution's packages unless BASE is set, containers have no namespaces of their own, and all
#: of it, some GB below TMPDIR, is removed at the end. Needs: apt-get install buildah mmdebstrap
set -eu
cd "$(dirname "$0")/.."
unset PLEXSPACES_NODE_ADDRESS PLEXSPACES_CONFIG 2>/dev/null || true

builder=${CONTAINER_BUILDER:-docker}
case ${1:-} in
    --help | -h) sed -n 's/^#: \{0,1\}//p' "$0"; exit 0 ;;
    --buildah) builder=buildah; shift ;;
esac
if [ $# -gt 0 ] || { [ "$builder" != docker ] && [ "$builder" != buildah ]; }; then
    printf 'error: there is no %s\nhint: scripts/test-docker.sh --help\n' "${1:-builder $builder}" >&2
    exit 2
fi

# shellcheck source=scripts/validation.sh
. scripts/validation.sh
operations=3
base=${BASE:-debian:12-slim}

# The build arguments that are set, also to nothing, as words.
set --
[ -z "${FIRECRACKER_VERSION+x}" ] || set -- "$@" --build-arg "FIRECRACKER_VERSION=$FIRECRACKER_VERSION"
[ -z "${FIRECRACKER_SHA256+x}" ] || set -- "$@" --build-arg "FIRECRACKER_SHA256=$FIRECRACKER_SHA256"
[ -z "${FIRECRACKER_URL+x}" ] || set -- "$@" --build-arg "FIRECRACKER_URL=$FIRECRACKER_URL"
[ -z "${QEMU+x}" ] || set -- "$@" --build-arg "QEMU=$QEMU"

# ---- what holds for the image of the node, whatever built it: in_node COMMAND... runs in it ----

not_root() {
    user=$(in_node id -u)
    fact "user $user"
    [ "$user" -ne 0 ]
}

image_whole() {
    in_node plexspaces image verify >"$work/verify"
    cat "$work/verify"
    fact "$(sed -n 's/^✓ Image \(.\{12\}\).*/\1/p' "$work/verify")"
}

vmm_there() {
    if [ "${FIRECRACKER_VERSION-unset}" = "" ]; then
        ! in_node which firecracker || return 1
        fact "left out, as asked"
        return 0
    fi
    in_node firecracker --version >"$work/version"
    in_node jailer --version >>"$work/version"
    fact "$(head -n 1 "$work/version")"
}

check_image() {
    step "not root" not_root
    step "guest image" image_whole
    step firecracker vmm_there
}

# ---- with Docker's engine ---------------------------------------------------------------------

# Healthy by its own health check, and ended in good order by the signal of `docker stop`.
lives_and_ends() {
    docker run --detach --name "$container" --network none plexspaces-node
    tries=0
    until [ "$(docker inspect --format '{{.State.Health.Status}}' "$container")" = healthy ]; do
        [ $tries -lt 90 ] || { docker logs "$container"; return 1; }
        tries=$((tries + 1))
        sleep 1
    done
    bounded 60 docker stop --time 30 "$container"
    docker logs "$container"
    status=$(docker inspect --format '{{.State.ExitCode}}' "$container")
    fact "healthy after $tries s; SIGTERM ended it with status $status"
    [ "$status" -eq 0 ]
}

with_docker() {
    docker version >/dev/null 2>&1 || fail "no Docker engine answers at ${DOCKER_HOST:-its socket}" \
        "start it: sudo systemctl start docker; without one: scripts/test-docker.sh --buildah"
    container=plexspaces-test-docker-$$
    in_node() { bounded 300 docker run --rm --network none plexspaces-node "$@"; }
    # shellcheck disable=SC2317
    at_end() { docker rm --force --volumes "$container"; }
    step "image of the node" bounded 7200 \
        docker build "$@" --build-arg "BASE=$base" --network "${BUILD_NETWORK:-default}" --target node --tag plexspaces-node .
    check_image
    step "life of a container" lives_and_ends
    at_end >"$work/removed" 2>&1
    at_end() { :; }
    summary
    echo
    # A process of its own, with steps of its own.
    scripts/validate.sh --docker
}

# ---- without an engine ------------------------------------------------------------------------

# What the public base image of this name has, and this machine's certificates, so that a proxy
# that this machine trusts is trusted while the image is built.
# shellcheck disable=SC2016 # mmdebstrap gives the hook its $1
make_base() {
    bundle=/etc/ssl/certs/ca-certificates.crt
    release=bookworm
    set --
    if [ -e $bundle ]; then
        set -- "--customize-hook=copy-in $bundle /usr/local/share/ca-certificates" \
            '--customize-hook=chroot "$1" update-ca-certificates'
    fi
    bounded 1800 mmdebstrap --quiet --variant=minbase --include=ca-certificates "$@" \
        --customize-hook='rm -rf "$1"/usr/share/doc/* "$1"/usr/share/man/* "$1"/var/cache/apt/*' \
        "$release" "$work/base.tar"
    new=$(b from scratch)
    b add "$new" "$work/base.tar" /
    b config --env SSL_CERT_FILE=$bundle --env PIP_CERT=$bundle --env NODE_EXTRA_CA_CERTS=$bundle "$new"
    b commit --rm "$new" "$base"
    fact "$release, $(du -h "$work/base.tar" | cut -f 1)"
    rm "$work/base.tar"
}

build_target() { # build_target TARGET BUILD-ARGUMENT...
    target=$1
    shift
    bounded 7200 buildah --root "$store" --runroot "$work/run" bud --isolation chroot --network host \
        --layers --pull-never "$@" --build-arg "BASE=$base" --target "$target" --tag "plexspaces-$target" .
    fact "$(b images --format '{{.Size}}' "plexspaces-$target")"
}

b() { buildah --root "$store" --runroot "$work/run" "$@"; }

node_answers() {
    tries=0
    until grep -qs 'Address:' "$work/node.out"; do
        if ! kill -0 "$node" || [ $tries -ge 1200 ]; then
            cat "$work/node.out" "$work/node.log"
            return 1
        fi
        tries=$((tries + 1))
        sleep 0.1
    done
    address=$(sed -n 's/^ *Address: *//p' "$work/node.out")
    b config --env "PLEXSPACES_NODE_ADDRESS=$address" "$node_box"
    in_node plexspaces-health
    fact "$(isolation_of "$work/node.out")"
}

# Buildah hands no signal on; without a namespace of processes the container's are this machine's.
end_node() { kill -TERM "$(sed -n 's/^pid //p' "$work/node.out")"; }

node_ends() {
    tries=0
    while kill -0 "$node" 2>/dev/null; do
        [ $tries -lt 600 ] || { cat "$work/node.log"; return 1; }
        tries=$((tries + 1))
        sleep 0.1
    done
    cat "$work/node.log"
    grep -q '^stopping' "$work/node.log"
    left=$(in_node ls /var/lib/plexspaces/vms)
    [ -z "$left" ] || { echo "error: machines were left: $left"; return 1; }
    fact "SIGTERM ended it, no machine left"
}

with_buildah() {
    for program in buildah mmdebstrap; do
        command -v $program >/dev/null || fail "there is no $program" "apt-get install buildah mmdebstrap"
    done
    [ "$(id -u)" = 0 ] || fail "without an engine the containers are made by root" "sudo $0 --buildah"
    store=$(mktemp -d "${TMPDIR:-/tmp}/plexspaces-images-XXXXXX")
    node=
    at_end() {
        [ -z "$node" ] || end_node || kill -TERM "$node" || true
        [ -z "$node" ] || wait "$node" || true
        b rm --all
        ! mountpoint -q "$store/overlay" || umount "$store/overlay"
        rm -rf "$store"
    }
    in_node() { bounded 300 buildah --root "$store" --runroot "$work/run" run --isolation chroot "$node_box" -- "$@"; }
    px() {
        bounded 900 buildah --root "$store" --runroot "$work/run" run --isolation chroot \
            --env "PLEXSPACES_NODE_ADDRESS=$address" "$test_box" -- polyglot_wasm_deployment "$@"
    }

    if [ -z "${BASE:-}" ]; then
        step "base image" make_base
    fi
    step "image of the node" build_target node "$@"
    step "image of polyglot-test" build_target polyglot-test "$@"
    node_box=$(b from --pull-never plexspaces-node)
    test_box=$(b from --pull-never plexspaces-polyglot-test)
    check_image
    # shellcheck disable=SC2016 # for the shell in the container
    b run --isolation chroot "$node_box" -- sh -c 'echo "pid $$" && exec tini -s -- "$@"' sh \
        plexspaces start-node --node-id node-1 --address 127.0.0.1:0 >"$work/node.out" 2>"$work/node.log" &
    node=$!
    step "empty node" node_answers
    address=$(sed -n 's/^ *Address: *//p' "$work/node.out")
    # shellcheck disable=SC2034 # of the checks
    artifacts=/work/wasm
    step workload check_workload 5
    step deploy check_deploy
    step listing check_listing
    step undeploy check_undeploy
    step "empty VM + TypeScript" check_empty_vm
    end_node
    step "end of the node" node_ends
    node=
    summary
}

if [ "$builder" = docker ]; then with_docker "$@"; else with_buildah "$@"; fi
