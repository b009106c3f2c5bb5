#!/usr/bin/env bash
# Nine minutes on a GPU: are its paths right, and how fast are they? Writes docs/performance.md's
# table.
#
#   tools/gpu_check.sh                            # all parts, in this order
#   PARTS="versions images moco-8 moco-1" tools/gpu_check.sh
#   PARTS=host tools/gpu_check.sh                 # a rehearsal of all parts, small, without a GPU
#   PARTS="host versions" tools/gpu_check.sh      # some parts of the rehearsal
#
# Each part has a time limit of its own and needs no other, except that those after `images` read
# its pictures. A part that fails, or is missing, does not end the check: the summary lists it, and
# the exit status is 0. OUT (runs/gpu-check) then holds for each part PART.json (its numbers) and
# PART.txt (what it printed), status.tsv, and summary.md. BUDGET (540) is the number of seconds of
# the whole check; what does not fit is left out. PYTHON names the interpreter. Needs neither make
# nor uv, neither FFCV nor DALI (tools/gpu_check_dali.sh checks DALI), and no network.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 2
export PYTHONPATH=$PWD # use this checkout's modules, not those of an installed one

names=(versions images doctor tests-first law8 batchnorm augment moco-8 moco-1 moco-8-plain
    moco-one-way simclr-bf16 simclr-fp16 resume ddp compile tests)
python=${PYTHON:-}
if [ -z "$python" ]; then
    python=python3
    [ ! -x .venv/bin/python ] || python=.venv/bin/python
fi
out=${OUT:-runs/gpu-check}
end=$((SECONDS + ${BUDGET:-540}))
host=
read -ra parts <<<"${PARTS:-}"
if [ "${parts[0]:-}" = host ]; then
    host=1
    parts=("${parts[@]:1}")
    export CUDA_VISIBLE_DEVICES=
fi
[ ${#parts[@]} -gt 0 ] || parts=("${names[@]}")
for part in "${parts[@]}"; do
    case " ${names[*]} " in
    *" $part "*) ;;
    *)
        echo "tools/gpu_check.sh: there is no part $part; the parts are ${names[*]}" >&2
        exit 2
        ;;
    esac
done
"$python" -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("torch") is None)' || {
    echo "tools/gpu_check.sh: $python has no torch; PYTHON=... names another interpreter" >&2
    exit 2
}
if [ -z "$host" ] && ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "tools/gpu_check.sh: torch finds no CUDA device; PARTS=host rehearses without one" >&2
    exit 2
fi
mkdir -p "$out"
out=$(cd "$out" && pwd)
: >"$out/status.tsv"

spread=() # pytest in several processes, if it can
"$python" -c 'import xdist' 2>/dev/null && spread=(-n 6)
[ -z "$host" ] || spread=()
tests=(-m pytest -p no:cacheprovider)
mapfile -t gpu_tests < <(grep -rlE 'mark\.gpu' tests --include='*.py' | sort)

# Numbers of the recipes' networks; in the rehearsal, of tiny ones.
profile=(tools/profile_throughput.py --loader memory --json)
moco=(--recipe recipes/moco-symmetric-unmix-cifar10-1000.yaml --data "folder:$out/images/32"
    --precision bf16 --steps 20 --repeats 3)
simclr=(--recipe recipes/simclr-imagenet-1000.yaml --data "folder:$out/images/224"
    --optimizer momentum --lr 0.1 --batch-size 256 --steps 10 --repeats 3)
short=(--recipe recipes/moco-symmetric-unmix-cifar10-1000.yaml --data "folder:$out/images/32")
half=fp16
full_moco=("${moco[@]}") full_simclr=("${simclr[@]}") # also of parts that only a GPU can run
if [ -n "$host" ]; then
    tiny=(--backbone test_resnet --batch-size 32 --groups 8 --precision no --image-size 16)
    moco+=("${tiny[@]}" --moco.queue 64 --steps 2 --repeats 1)
    simclr+=("${tiny[@]}" --steps 2 --repeats 1)
    short+=("${tiny[@]}" --moco.queue 64)
    half=no
fi

choose() { # PART: set `words`, the arguments of python; `limit`, in seconds; `device`, if needed
    local check=(-m tools.benchmarks.gpu_check) json=$out/$1.json
    device=
    case $1 in
    versions) limit=40 words=("${check[@]}" versions "$json") ;;
    images) limit=60 words=("${check[@]}" images "$out/images" "$json") ;;
    doctor) limit=120 words=(tools/doctor.py --device --json "$json") ;;
    tests-first) limit=100 words=("${tests[@]}" -m "gpu and first" "${spread[@]}"
        "--junitxml=$out/$1.xml" "${gpu_tests[@]}") ;;
    law8) limit=90 words=("${tests[@]}" -m gpu -k "waits" "${spread[@]}"
        "--junitxml=$out/$1.xml" tests/integration/test_gpu.py) ;;
    batchnorm) limit=60 words=(tools/bench.py batchnorm --json "$json") ;;
    augment) limit=60 words=(tools/bench.py augment --json "$json") ;;
    moco-8) limit=70 words=("${profile[@]}" "$json" "${moco[@]}" --groups 8) ;;
    moco-1) limit=60 words=("${profile[@]}" "$json" "${moco[@]}" --groups 1 --mix-groups 1) ;;
    moco-8-plain) limit=60 words=("${profile[@]}" "$json" "${moco[@]}" --groups 8
        --device-paths plain) ;;
    moco-one-way) limit=60 words=("${profile[@]}" "$json" "${moco[@]}" --groups 1 --mix none
        --mix-groups 1 --moco.no-symmetric) ;;
    simclr-bf16) limit=80 words=("${profile[@]}" "$json" "${simclr[@]}")
        [ -n "$host" ] || words+=(--precision bf16) ;;
    simclr-fp16) limit=70 words=("${profile[@]}" "$json" "${full_simclr[@]}" --precision fp16) device=1 ;;
    resume) limit=80 words=("${check[@]}" resume "$out/resume" "$json" "${short[@]}"
        --precision "$half") ;;
    ddp) limit=60 words=("${check[@]}" ddp "$json" "${short[@]}") ;;
    compile) limit=150 words=("${profile[@]}" "$json" "${full_moco[@]}" --groups 8 --compile) device=1 ;;
    tests) limit=400 words=("${tests[@]}" -m gpu "${spread[@]}" "--junitxml=$out/$1.xml"
        "${gpu_tests[@]}") ;;
    esac
}

run() { # PART
    local part=$1 left status began
    choose "$part"
    rm -f "$out/$part.json" "$out/$part.xml"
    left=$((end - SECONDS)) began=$SECONDS
    if [ -n "$host" ] && [ -n "$device" ]; then
        status=device
        echo "would run: python ${words[*]}" >"$out/$part.txt"
    elif [ -z "$host" ] && [ "$left" -lt 10 ]; then
        status=left-out
    else
        limit=$((host ? 2 * limit : limit < left ? limit : left)) # a host is slower
        printf '%s (at most %s s) ...\n' "$part" "$limit"
        timeout --kill-after=5 "$limit" "$python" "${words[@]}" >"$out/$part.txt" 2>&1
        status=$?
        [ "$status" = 0 ] || tail -n 5 "$out/$part.txt"
    fi
    printf '%s\t%s\t%s\t%s\t%s\n' "$part" "$status" $((SECONDS - began)) "$limit" \
        "python ${words[*]}" >>"$out/status.tsv"
}

for part in "${parts[@]}"; do
    run "$part"
done
"$python" -m tools.benchmarks.gpu_summary "$out" || exit 2
echo "tools/gpu_check.sh: the summary is $out/summary.md"
