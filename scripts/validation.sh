# shellcheck shell=sh disable=SC2154
# What scripts/validate.sh and scripts/test-docker.sh have in common; read by them, never run.
# A step is one line: a mark, its name, its time and one fact. The first that fails shows what its
# command said, and ends the script with status 1. Whatever was started is ended by `at_end`.

work=$(mktemp -d "${TMPDIR:-/tmp}/plexspaces-validate-XXXXXX")
passed=0
begun=$(date +%s)

at_end() { :; } # scripts put what ends their machines here

finish() {
    status=$?
    # Whoever is impatient and presses Ctrl-C again must not leave what would be ended now.
    trap - EXIT
    trap '' INT TERM HUP
    at_end >"$work/end.log" 2>&1 || { cat "$work/end.log" >&2; [ $status -ne 0 ] || status=1; }
    rm -rf "$work"
    exit $status
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# bounded SECONDS COMMAND...: a command that hangs is ended, and then killed.
bounded() {
    seconds=$1
    shift
    timeout --foreground --kill-after=20 "$seconds" "$@"
}

# fact TEXT: what stands at the end of the step's line.
fact() { printf '%s' "$*" >"$work/fact"; }

# step NAME COMMAND...: runs in a shell of its own, whose variables are gone afterwards.
step() {
    name=$1
    shift
    rm -f "$work/fact"
    [ ! -t 1 ] || printf '  %s …\r' "$name"
    before=$(date +%s%N)
    set +e
    (set -e; "$@") >"$work/step.log" 2>&1 </dev/null
    status=$?
    set -e
    took=$((($(date +%s%N) - before) / 100000000))
    took=$((took / 10)).$((took % 10))
    [ -e "$work/fact" ] || : >"$work/fact"
    if [ $status -ne 0 ]; then
        printf '✗ %-28s %7s s\n' "$name" "$took"
        [ $status -ne 124 ] || echo "error: it did not end in time" >>"$work/step.log"
        sed 's/^/    /' "$work/step.log" >&2
        printf 'error: validation failed at: %s (status %s)\n' "$name" "$status" >&2
        exit 1
    fi
    printf '✓ %-28s %7s s  %s\n' "$name" "$took" "$(cat "$work/fact")"
    passed=$((passed + 1))
}

summary() { printf '\n✓ %s steps passed in %s s\n' "$passed" "$(($(date +%s) - begun))"; }

# fail FACT HINT: what is wrong before there is a step to blame.
fail() {
    printf 'error: %s\nhint: %s\n' "$1" "$2" >&2
    exit 1
}

# ---- the checks of a node that runs ---------------------------------------------------------
# A script that uses them has px ARGUMENTS..., which runs the command line against its node;
# $artifacts, the directory of built samples as px sees it; and $operations.

# isolation_of FILE: the level that a node said it has, and why it has no stronger one.
isolation_of() { sed -n 's/^.*Isolation: *//p' "$1" | head -n 1 | sed 's/;.*//' | cut -c 1-120; }

check_workload() { # check_workload NUMBER: at least so many samples must run
    px run --operations "$operations" --limit 100000 --json >"$work/run.json"
    grep -q '"correct": true' "$work/run.json"
    found=$(grep -c '"wrong": 0' "$work/run.json")
    fact "$found samples, $operations messages each, every reply right"
    [ "$found" -ge "$1" ] || { echo "error: $found samples ran, not $1"; return 1; }
}

check_deploy() {
    px deploy --name validate-calculator --language python --wasm "$artifacts/python-calculator.wasm"
    px invoke validate-calculator --type add --data '{"a": 19, "b": 23}' >"$work/reply"
    grep -qx '{"result":42.0}' "$work/reply" || { echo "error: 19 + 23 = $(cat "$work/reply")"; return 1; }
    fact "19 + 23 = 42"
}

check_listing() {
    px list >"$work/list"
    cat "$work/list"
    grep -q 'Application: validate-calculator' "$work/list"
    fact "$(sed -n 's/^ *- \(vm-[^:]*\): \([A-Za-z]*\).*/\1 \2/p' "$work/list" | head -n 1)," \
        "$(sed -n 's/^ *Isolation: //p' "$work/list" | head -n 1)"
}

check_undeploy() {
    px undeploy --name validate-calculator
    px list >"$work/list"
    cat "$work/list"
    ! grep -q 'validate-calculator' "$work/list" || return 1
    fact "not listed any more"
}

check_empty_vm() {
    px empty-vm-typescript --vm-id validate-vm --wasm "$artifacts/ts-greeter.wasm" \
        --operations "$operations" --limit 100000 >"$work/empty" 2>"$work/empty.err" ||
        { cat "$work/empty.err"; return 1; }
    fact "$(sed -n 's/^✓ Empty VM started in //p' "$work/empty.err")"
}
