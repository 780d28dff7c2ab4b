#!/bin/sh
# The main job on the trained pair that ships: align, walk the line between the two, judge it. Leaves demo/.
set -eu
data=$(dirname "$0")
mkdir -p demo
# One thread is fastest for networks of this size.
export OMP_NUM_THREADS=1
echo '$ rebasin align a b | rebasin interpolate --steps 25 --data digits.npz | rebasin report'
rebasin align "$data/digits_mlp_a.safetensors" "$data/digits_mlp_b.safetensors" \
        -o demo/b.aligned.safetensors --force |
    rebasin interpolate --steps 25 --data "$data/digits.npz" --max-barrier 0.11 \
        --plot demo/barrier.png --report demo/run.json --force
rebasin report demo/run.json --html demo/report.html --force
if [ -t 1 ]; then rebasin report demo/run.json; else rebasin report demo/run.json --text -; fi
echo
echo "demo/ has the aligned checkpoint, its permutation, the run document, barrier.png and report.html."
