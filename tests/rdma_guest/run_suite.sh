#!/bin/bash
# Tests transport verbs over real RDMA verbs on a machine without any RDMA card: in guests whose kernel has Soft-RoCE.
#
#   tests/rdma_guest/run_suite.sh [options] [-- PYTEST-ARGUMENTS]
#
#   --python P     interpreter that has kvsim's requirements ("python3")
#   --engine E     uml or qemu, as for run_in_guest.sh
#   --only WHAT    "one": everything that one guest can show; "two": two guests linked by a pair of sockets;
#                  "recipe": the README's recipe for a real cluster; "bench": kvsim bench transfer beside perftest
#   --prepared     fail with status 77 instead of preparing what is not there
#
# Prepares what it needs, kept in ~/.cache/kvsim/rdma-guest: some minutes once, with apt and a compiler, as root. A run
# takes four minutes of two processors then, or less. What is tested is what bears the mark "rdma": the transport suite,
# real workers. At the end comes the benchmark, and how long each part took.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
cache=${KVSIM_RDMA_GUEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/kvsim/rdma-guest}
python=python3 engine=uml only='' prepared=''
while (($#)); do
    case $1 in
    --python) python=$2 ;;
    --engine) engine=$2 ;;
    --only) only=$2 ;;
    --prepared) prepared=1; shift; continue ;;
    --) shift; break ;;
    *) echo "unknown option $1" >&2; exit 2 ;;
    esac
    shift 2
done

if [[ -n $prepared ]] && ! "$here/prepare.sh" --check "$engine"; then exit 77; fi
python=$(command -v "$python")
cd "$root"
export PYTHONPATH=$root:$root/tests:$cache/pyverbs KVSIM_COMPILE=0

took=()
cpu_ticks() { # of all that has ended below this shell: its fields 16 and 17, proc(5)
    local fields
    read -r -a fields <"/proc/$$/stat"
    echo $((fields[15] + fields[16]))
}
part() { # NAME COMMAND..: run it and note how long it took, on the clock and of processors
    local began=$SECONDS ticks status=0
    ticks=$(cpu_ticks)
    "${@:2}" || status=$?
    took+=("$1 $((SECONDS - began)) s (CPU $((($(cpu_ticks) - ticks) / $(getconf CLK_TCK))) s)")
    return "$status"
}

tests_in_guest=("$here/run_in_guest.sh" --engine "$engine" --timeout 400 --
    "$python" -m pytest -q -p no:cacheprovider -m rdma --durations=5)

# What transformers generates, for --known-answers: asked outside the guest, where it would take a minute to import, and
# while the guest does something else.
trap 'jobs -p | xargs --no-run-if-empty kill; rm -rf "${scratch:-}"' EXIT
ask_transformers() {
    scratch=$(mktemp -d)
    answers=$scratch/answers
    mkdir "$answers"
    "$python" "$here/known_answers.py" "$answers" &
    asking=$!
}
await_transformers() { part "rest of the answers of transformers" wait "$asking"; }

wanted() { [[ -z $only || $only == "$1" ]]; }

if wanted one && { ! (($#)) || [[ "$*" == *test_real_processes.py* ]]; }; then ask_transformers; fi
if wanted recipe; then
    part recipe "$here/run_in_guest.sh" --engine "$engine" --timeout 120 -- \
        "$here/check_recipe.sh" "$python" "$cache/pyverbs/pyverbs"
fi
if wanted one; then
    if [[ -n ${asking:-} ]]; then await_transformers; fi
    if (($#)); then
        part "one guest" "${tests_in_guest[@]}" "$@" ${answers:+--known-answers "$answers"}
    else
        # two guests side by side; what the second one says is shown at its end
        "${tests_in_guest[@]}" tests/test_real_processes.py tests/test_transport_torch.py --known-answers "$answers" \
            >"$scratch/real_workers.log" 2>&1 &
        serving=$!
        # The mark is made in transport_world. Torch only where it is asked for: it takes seconds to import here, and most
        # of the pieces of memory that a process of the guest may have (run_in_guest.sh).
        mapfile -t files < <(grep -l transport_world tests/test_transport_*.py tests/test_verbs_*.py | grep -v _torch)
        part transport "${tests_in_guest[@]}" "${files[@]}"
        served=0
        part "rest of real workers" wait "$serving" || served=$?
        cat "$scratch/real_workers.log"
        if ((served)); then exit "$served"; fi
    fi
fi
if wanted two; then
    part "two guests" "$here/run_in_two_guests.py" --engine "$engine" --timeout 120 -- "$python" "$here/two_hosts.py"
fi
if wanted bench; then
    # pools and transfers that fit a guest; wide enough for the table
    COLUMNS=160 part benchmark "$here/run_in_guest.sh" --engine "$engine" --timeout 400 -- \
        "$python" -c "from kvsim.cli import main; main()" \
        bench transfer --transport verbs --pool-mib 32 --total-mib 16 --repetitions 21
fi
printf -v line ', %s' "${took[@]}"
echo "took: ${line:2}"
