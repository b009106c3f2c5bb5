#!/usr/bin/env bash
# The GPU runs of docs/results.md: one comparison at a time, in time slices joined by --resume.
#
#   tools/results.sh moco|simclr|byol|swav|clim EPOCHS SEED...
#   tools/results.sh moco 60 0 1 2        # three seeds of 60 epochs
#   tools/results.sh swav 200 0           # one of 200
#
# A slice ends after MINUTES; no scoring starts later, but one may end later. The same command
# continues where the slice stopped and skips finished runs. When all runs are finished, they are
# scored and compared.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-.venv/bin/python}
data=${DATA:-data}             # folder of cifar-10-batches-py, which is downloaded if missing
output=${OUTPUT:-runs/results}
minutes=${MINUTES:-25}
read -ra flags <<<"${FLAGS:---precision bf16}"

if (($# < 3)); then
    sed -n '3,6p' "$0" >&2
    exit 2
fi
pair=$1 epochs=$2
shift 2

preset=whitening bases=(mix=none)
variants=("none --mix none" "unmix --mix unmix")
case $pair in
    moco) recipe=moco-symmetric-unmix-cifar10-1000 ;;
    simclr) recipe=simclr-unmix-cifar10-1000 ;;
    byol) recipe=byol-unmix-cifar10-1000 ;;
    swav) recipe=swav-unmix-cifar10-400 preset=swav-cifar ;;
    clim)
        recipe=moco-clim-cifar10-1000 bases+=(clim.rule=random)
        variants=("none --mix none")
        for rule in centre random knn cluster; do variants+=("$rule --clim.rule $rule"); done
        ;;
    *) echo "tools/results.sh: no pair $pair; moco, simclr, byol, swav or clim" >&2 && exit 2 ;;
esac

end=$((SECONDS + 60 * minutes))
over() { echo "tools/results.sh: the slice ended in $1; the same command continues" >&2; }
runs=()
for seed in "$@"; do
    for variant in "${variants[@]}"; do
        read -ra words <<<"$variant"
        name=$pair-${words[0]}-$epochs-seed$seed
        runs+=("$output/$name")
        [ -e "$output/$name/report.html" ] && continue # written when a run is done
        left=$((end - SECONDS))
        status=75
        if ((left > 20)); then # in less time train.py could not yet handle the signal
            status=0
            timeout --preserve-status --signal TERM "$left" "$python" train.py \
                --recipe "recipes/$recipe.yaml" --data-dir "$data" --epochs "$epochs" \
                --seed "$seed" --output "$output" --name "$name" --resume auto \
                "${words[@]:1}" "${flags[@]}" || status=$?
        fi
        ((status != 75)) || over "$name"
        ((status == 0)) || exit "$status"
    done
done

for run in "${runs[@]}"; do
    for protocol in knn linear; do
        grep -qs "\"protocol\": \"$protocol\"" "$run/eval.jsonl" && continue
        ((SECONDS < end)) || { over "its scores" && exit 75; }
        words=()
        [ "$protocol" = knn ] || words=(--preset "$preset")
        "$python" eval.py "$protocol" --run "$run" "${words[@]}"
    done
done
for protocol in knn linear; do
    for base in "${bases[@]}"; do
        "$python" tools/compare.py "${runs[@]}" --protocol "$protocol" --base "$base" \
            --output "$output/$pair-$epochs-$protocol-${base#*=}.png"
    done
done
