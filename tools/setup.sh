#!/usr/bin/env bash
# Makes .venv with everything that the jobs, the tests and the linters need. Run it as make setup.
#
# Done before and nothing changed: returns at once. Interrupted: run it again. What is finished is
# kept, what was under way is done over, and the stamp that says "all done" is written last.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3.11}
log=build/setup.log
stamp=.venv/.setup-done
packages=.venv/.packages-done
options=.venv/.horovod-options

# What Horovod is built with stays as it was until it is said anew: HOROVOD_GPU_OPERATIONS=NCCL
# once, and a later make test keeps that build; HOROVOD_GPU_OPERATIONS= goes back to the CPU's.
horovod_options() { env | grep -E '^HOROVOD_(GPU|CPU|CUDA|NCCL|MPI|WITH|BUILD)' | sort; }
if ! horovod_options >/dev/null && [ -f "$options" ]; then
    while IFS= read -r line; do export "${line?}"; done <"$options"
fi

# The stamp is the text of all that shapes the result.
state() {
    echo "$PWD" # a venv cannot be moved
    horovod_options || true
    grep '^spark\.jars' conf/spark.conf || true
    sed '/^\[tool.ruff/,$d' pyproject.toml # the linters' part shapes nothing
    cat requirements.txt tools/setup.sh tools/build_horovod.py tools/check_spark.py
}

state | cmp -s - "$stamp" && exit 0

mkdir -p build
# One at a time: two terminals may both want it. (macOS has no flock.)
exec 9>build/setup.lock
if command -v flock >/dev/null && ! flock -n 9; then
    echo "Another make setup is under way here; waiting for it."
    flock 9
    state | cmp -s - "$stamp" && exit 0
fi
rm -f "$stamp"
: >"$log"

trap 'printf "\nInterrupted. make setup goes on from here.\n"; exit 130' INT TERM
step=0
run() { # title, command...: one line on the console, details in the log
    local title=$1 start=$SECONDS code=0
    shift
    printf '[%d/7] %s… ' $((++step)) "$title"
    set +e
    (set -e && "$@") >>"$log" 2>&1
    code=$?
    set -e
    if [ $code -ne 0 ]; then
        # A compiler's message stands far above the end of the log.
        printf 'failed\n\n'
        grep -n -m 5 -E '(error|Error|ERROR):' "$log" && printf '…\n'
        tail -n 30 "$log"
        printf '\nThe whole log: %s. Set right what it names, then run make setup again.\n' "$log"
        exit 1
    fi
    printf 'done in %d s\n' $((SECONDS - start))
}

make_venv() {
    # A .venv whose packages were never finished, or that was moved, is thrown away: uv's cache
    # makes a new one cheap.
    if ! { [ -f "$packages" ] && [ -x .venv/bin/uv ] && grep -q "$PWD/.venv\$" .venv/pyvenv.cfg; }; then
        rm -rf .venv
        "$python" -m venv .venv
        .venv/bin/python -m pip install "$(grep '^uv==' requirements.txt)"
    fi
}

uv() { .venv/bin/uv --no-progress "$@" --python .venv/bin/python; }

install_packages() {
    cmp -s requirements.txt "$packages" && return
    rm -f "$packages"
    # Bytecode, too: where PYTHONDONTWRITEBYTECODE is set, as in many images, each process would
    # compile all that it imports anew, which takes longer than the imports.
    uv pip sync --compile-bytecode requirements.txt
    cp requirements.txt "$packages.part"
    mv "$packages.part" "$packages"
}

install_horovod() {
    local wheel
    wheel=$(.venv/bin/python tools/build_horovod.py)
    uv pip install --no-deps --reinstall --compile-bytecode "$wheel"
    .venv/bin/python -c 'import horovod.torch; assert horovod.torch.gloo_built()'
    horovod_options >"$options" || rm "$options"
}

install_project() {
    # compat: a plain path file, which linters and editors understand
    uv pip install --no-deps --no-build-isolation --config-settings editable_mode=compat --editable .
}

compile_kernels() { # where they cannot be, training and scoring say so and go without
    .venv/bin/python -c 'from afm.kernels import cpu, rows, scoring
for kernel in cpu, rows, scoring: kernel.library()'
}

check_spark() {
    local java='-XX:ArchiveClassesAtExit=.venv/spark.jsa -XX:TieredStopAtLevel=1 -XX:+UseSerialGC'
    rm -f .venv/spark.jsa
    PATH=$PWD/.venv/bin:$PATH spark-submit --properties-file conf/spark.conf --conf spark.log.level=ERROR \
        --conf spark.driver.extraJavaOptions="$java" --driver-memory 1g tools/check_spark.py
}

if ! missing=$(tools/check_prerequisites.sh "$python"); then
    echo "$missing" && exit 1
fi
printf '[%d/7] Checking prerequisites… done\n' $((++step))
run "Making .venv" make_venv
run "Installing Python packages (about 1 minute)" install_packages
if [ -f "$(.venv/bin/python tools/build_horovod.py --where)" ]; then
    run "Installing Horovod, built before" install_horovod
else
    run "Building Horovod (about 4 minutes, once on this machine)" install_horovod
fi
run "Installing this project" install_project
run "Compiling the kernels" compile_kernels
run "Fetching Delta for Spark and trying both (about a minute)" check_spark

state >"$stamp.part"
mv "$stamp.part" "$stamp"
