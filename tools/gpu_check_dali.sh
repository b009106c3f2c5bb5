#!/usr/bin/env bash
# DALI's GPU decoder alone: is it right, and how fast is it? For machines with a GPU and DALI.
#
#   tools/gpu_check_dali.sh          # OUT (runs/gpu-check-dali) and PYTHON as in tools/gpu_check.sh
#
# Writes PART.txt and PART.json for the tests against PIL, DALI's modes, and a profile of SimCLR's
# ResNet-50 at 224 px with --loader dali. A part that fails does not end the check; the exit status
# is 1 if one did.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 2
export PYTHONPATH=$PWD
python=${PYTHON:-}
if [ -z "$python" ]; then
    python=python3
    [ ! -x .venv/bin/python ] || python=.venv/bin/python
fi
out=${OUT:-runs/gpu-check-dali}
"$python" -c 'import nvidia.dali' 2>/dev/null || {
    echo "tools/gpu_check_dali.sh: $python has no nvidia.dali: pip install nvidia-dali-cuda130" >&2
    exit 2
}
"$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || {
    echo "tools/gpu_check_dali.sh: torch finds no CUDA device" >&2
    exit 2
}
mkdir -p "$out"
out=$(cd "$out" && pwd)
failed=0

part() { # NAME LIMIT ARGUMENTS OF PYTHON
    local name=$1 limit=$2
    shift 2
    echo "$name: python $*"
    timeout --kill-after=5 "$limit" "$python" "$@" >"$out/$name.txt" 2>&1 || {
        echo "$name failed; the end of $out/$name.txt:"
        tail -n 5 "$out/$name.txt"
        failed=1
    }
}

images=folder:$out/images/224
part images 60 -m tools.benchmarks.gpu_check images "$out/images" "$out/images.json"
part tests 120 -m pytest -p no:cacheprovider -m gpu -k dali "--junitxml=$out/tests.xml" \
    tests/integration/test_gpu.py
part modes 90 tools/bench.py dali --data "$images/train" --seconds 1 --json "$out/modes.json"
part profile 120 tools/profile_throughput.py --recipe recipes/simclr-imagenet-1000.yaml \
    --data "$images" --optimizer momentum --lr 0.1 --batch-size 256 --precision bf16 \
    --loader dali --json "$out/profile.json"
grep -h '^|' "$out/modes.txt" || true
echo "tools/gpu_check_dali.sh: the results are in $out"
exit "$failed"
