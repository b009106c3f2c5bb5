#!/usr/bin/env bash
# "Does a mixture help?" of docs/results.md, on CPUs: train, score, collect and compare every run.
#
#   tools/results_host.sh                  # everything, in the protocol's order (days)
#   STAGES=simclr tools/results_host.sh    # the primary comparison and SimCLR's equal units
#   make results                           # one seed of one pair at 30 epochs (minutes)
#
# The same command continues where it stopped: finished runs are skipped, unfinished ones resumed.
# Environment variables: DATA (folder of cifar-10-batches-py, which is downloaded if missing),
# OUTPUT, COLLECT (folder of the small files that are committed), PYTHON, EPOCHS, SEEDS, STAGES,
# FLAGS. Stages: simclr, moco, byol, swav (none against unmix), more (global, region), and pair (only
# SimCLR, at equal epochs).
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH=$PWD # use this checkout's modules, not those of an installed one
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE} # else idle threads spin on shared cores

python=${PYTHON:-.venv/bin/python}
data=${DATA:-data}
output=${OUTPUT:-runs/cifar10-10k}
collect=${COLLECT:-$output/collected}
epochs=${EPOCHS:-150}
read -ra seeds <<<"${SEEDS:-0 1 2 3 4}"
read -ra stages <<<"${STAGES:-simclr moco byol swav more}"
read -ra flags <<<"${FLAGS:-}"
methods=(simclr moco byol swav)
declare -A units=([simclr]="9 6" [moco]="11 8" [byol]="12 8" [swav]="9 6") # docs/performance.md

equal_units() { # METHOD: the base's epochs that cost as many encoder units as the mixture's
    local mixed base
    read -r mixed base <<<"${units[$1]}"
    echo $(((2 * epochs * mixed + base) / (2 * base)))
}

folder() { echo "$output/$1-$2-$3-seed$4"; } # METHOD MIX EPOCHS SEED

run() { # METHOD MIX EPOCHS SEED: train, score, collect
    local path words protocol
    path=$(folder "$@")
    words=(train.py --recipe recipes/cifar10-10k.yaml --data-dir "$data" --method "$1" --mix "$2"
        --epochs "$3" --seed "$4" --output "$output" --name "$(basename "$path")" "${flags[@]}")
    if [ ! -e "$path.trained" ]; then
        mkdir -p "$output"
        printf '%s\t%s\n' "$(git describe --always --dirty --exclude='*' --abbrev=40)" \
            "${words[*]}" >>"$path.commands"
        "$python" "${words[@]}" --resume auto
        touch "$path.trained"
    fi
    for protocol in knn linear; do
        grep -qs "\"protocol\": \"$protocol\"" "$path/eval.jsonl" && continue
        words=(eval.py "$protocol" --run "$path")
        [ "$protocol" = knn ] || words+=(--preset whitening)
        "$python" "${words[@]}"
    done
    "$python" tools/collect.py "$path" "$collect"
}

compare() { # METHOD BASE-EPOCHS MIX...: the base against mixtures, after all seeds are finished
    local method=$1 base=$2 runs=() mix seed protocol
    shift 2
    for seed in "${seeds[@]}"; do
        runs+=("$(folder "$method" none "$base" "$seed")")
        for mix in "$@"; do runs+=("$(folder "$method" "$mix" "$epochs" "$seed")"); done
    done
    for protocol in knn linear; do
        "$python" tools/compare.py "${runs[@]}" --protocol "$protocol" \
            --base mix=none "epochs=$base" --markdown
        echo
    done
}

for stage in "${stages[@]}"; do
    case $stage in
        pair)
            for seed in "${seeds[@]}"; do
                run simclr none "$epochs" "$seed"
                run simclr unmix "$epochs" "$seed"
            done
            compare simclr "$epochs" unmix
            ;;
        simclr | moco | byol | swav)
            longer=$(equal_units "$stage")
            for seed in "${seeds[@]}"; do
                run "$stage" none "$epochs" "$seed"
                run "$stage" unmix "$epochs" "$seed"
            done
            compare "$stage" "$epochs" unmix
            for seed in "${seeds[@]}"; do run "$stage" none "$longer" "$seed"; done
            compare "$stage" "$longer" unmix
            ;;
        more)
            for method in "${methods[@]}"; do
                for seed in "${seeds[@]}"; do
                    for mix in global region; do run "$method" "$mix" "$epochs" "$seed"; done
                done
                compare "$method" "$epochs" global region
                compare "$method" "$(equal_units "$method")" global region
            done
            ;;
        *) echo "tools/results_host.sh: no stage $stage; simclr, moco, byol, swav, more or pair" >&2
           exit 2 ;;
    esac
done
