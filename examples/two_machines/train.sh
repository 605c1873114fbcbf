#!/usr/bin/env bash
# One training run on several machines: the environment that accelerate reads, and a process for each GPU.
#
#   FIRST=10.0.0.1 NUMBER=0 OUT=/shared/runs/sft examples/two_machines/train.sh RECIPE [KEY=VALUE …]
#
# FIRST     address of the first machine
# NUMBER    of this machine: 0, 1, …
# OUT       the run folder, on a disk that all machines can reach
# MACHINES  how many there are (2)
# PORT      a free port of the first machine (29500)
# PYTHON    the Python in which longalign is installed (python)
set -euo pipefail

: "${FIRST:?is the address of the first machine}" "${NUMBER:?is the number of this machine: 0, 1, …}"
: "${OUT:?is the run folder, on a disk that all machines can reach}" "${1:?is missing: name a recipe}"
python=${PYTHON:-python}
each=$("$python" -c "import torch; print(max(torch.cuda.device_count(), 1))")

export MASTER_ADDR=$FIRST MASTER_PORT=${PORT:-29500}
export WORLD_SIZE=$((${MACHINES:-2} * each)) LOCAL_WORLD_SIZE=$each
started=()
for local in $(seq 0 $((each - 1))); do
    LOCAL_RANK=$local RANK=$((NUMBER * each + local)) \
        "$python" -m longalign train "$@" --out "$OUT" &
    started+=($!)
done
for process in "${started[@]}"; do # the first one that fails ends the script
    wait "$process"
done
