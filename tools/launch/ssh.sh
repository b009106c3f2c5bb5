#!/usr/bin/env bash
# A run on several machines over ssh; all must have the checkout at the same path:
#
#   tools/launch/ssh.sh "HOST0 HOST1" PROCESSES_PER_HOST --method swav --mix region --name swav ...
#
# HOST0 must be a name or address at which the others reach it; PORT (29500) is its port. NCCL_* and
# GLOO_* variables are passed on. SIGINT, SIGTERM or SIGHUP here, or a lost connection, becomes SIGTERM
# there: the run saves and stops, and the same command with --resume auto continues it.
set -euo pipefail
if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 501)); then
    echo "tools/launch/ssh.sh: bash $BASH_VERSION cannot wait for several hosts: 5.1 or later" >&2
    exit 2
fi
if [ $# -lt 2 ]; then
    sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
read -ra hosts <<<"$1"
each=$2
shift 2

quoted() { printf '%q ' "$@"; }

mapfile -t network < <(env | grep -E '^(NCCL|GLOO)_' || true)

# Run "$@"; send it SIGTERM when standard input ends; return its status.
# shellcheck disable=SC2016  # expanded on the host
there='exec 3<&0
"$@" 3<&- </dev/null & launcher=$!
{ read -r _ <&3; kill -TERM "$launcher"; } 2>/dev/null & watcher=$!
wait "$launcher"; status=$?
kill "$watcher" 2>/dev/null
exit "$status"'

inputs=()
pids=()
for rank in "${!hosts[@]}"; do
    command=(env "${network[@]}" "${PYTHON:-.venv/bin/python}" -m accelerate.commands.launch
        --multi_gpu --num_machines "${#hosts[@]}" --num_processes "$((each * ${#hosts[@]}))"
        --machine_rank "$rank" --main_process_ip "${hosts[0]}" --main_process_port "${PORT:-29500}"
        --mixed_precision no --dynamo_backend no train.py "$@")
    line="cd $(quoted "$PWD") && exec bash -c $(quoted "$there" there "${command[@]}")"
    exec {input}> >(
        for other in "${inputs[@]}"; do exec {other}>&-; done # else they would stay open here
        trap '' INT # Ctrl-C reaches all processes of the terminal; keep the output of the run
        exec ssh "${hosts[rank]}" "$line"
    )
    pids+=($!)
    inputs+=("$input")
done

stop() { for input in "${inputs[@]}"; do exec {input}>&-; done; inputs=(); }
trap stop INT TERM HUP

status=0
for pid in "${pids[@]}"; do
    code=0
    wait "$pid" || code=$?
    while kill -0 "$pid" 2>/dev/null; do # a signal ends wait, but not the process
        code=0
        wait "$pid" || code=$?
    done
    if [ "$code" -ne 0 ]; then
        status=$code
        stop
    fi
done
exit "$status"
