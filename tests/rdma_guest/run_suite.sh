#!/bin/bash
# Tests transport verbs over real RDMA verbs on a machine without any RDMA card: in guests whose kernel has Soft-RoCE.
#
#   tests/rdma_guest/run_suite.sh [options] [-- PYTEST-ARGUMENTS]
#
#   --python P     interpreter that has kvsim's requirements ("python3")
#   --engine E     uml or qemu, as for run_in_guest.sh
#   --only WHAT    "one": everything that one guest can show; "two": two guests linked by a pair of sockets; "recipe":
#                  the README's recipe for a real cluster
#   --prepared     fail with status 77 instead of preparing what is not there
#
# Prepares what it needs, kept in ~/.cache/kvsim/rdma-guest: some minutes once, with apt and a compiler, as root. A run
# takes two to four minutes then. What is tested is what bears the mark "rdma": the transport suite, real workers.
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
export PYTHONPATH=$root:$root/tests:$cache/pyverbs PYTHONDONTWRITEBYTECODE=1 KVSIM_COMPILE=0

if [[ -z $only || $only == recipe ]]; then
    "$here/run_in_guest.sh" --engine "$engine" --timeout 120 -- "$here/check_recipe.sh" "$python" "$cache/pyverbs/pyverbs"
fi
if [[ -z $only || $only == one ]]; then
    "$here/run_in_guest.sh" --engine "$engine" --timeout 400 -- \
        "$python" -m pytest -q -p no:cacheprovider -m rdma --durations=5 "$@"
fi
if [[ -z $only || $only == two ]]; then
    "$here/run_in_two_guests.py" --engine "$engine" --timeout 120 -- "$python" "$here/two_hosts.py"
fi
