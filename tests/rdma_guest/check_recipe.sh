#!/bin/bash
# Follows the README's recipe for a real cluster, on a machine that looks like one: a guest with an RDMA device, where the
# distribution's pyverbs lies where its package puts it. Run by run_suite.sh, inside run_in_guest.sh, whose writes vanish.
#
#   check_recipe.sh PYTHON PYVERBS     an interpreter that has kvsim's requirements; the package's directory pyverbs
#
# The lines are taken from the README and run as they stand there, but for two that need a network: what apt installs is
# copied, and what pip installs is borrowed from PYTHON.
set -euo pipefail

python=$1 pyverbs=$2
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
unset PYTHONPATH

recipe=$(sed -n '/^\*\*On a real cluster\*\*/,/^```$/ p' "$root/README.md" | sed '1,/^```sh$/ d; /^```$/ d')
line() { # WORDS: the one line of the recipe that has them, without its comment
    local found
    found=$(grep -F -- "$1" <<<"$recipe" | sed 's/ *  # .*//')
    [[ -n $found && $found != *$'\n'* ]] || { echo "the README's recipe has not one line with '$1'" >&2; exit 1; }
    echo "$found"
}
follow() { # not in a subshell: the recipe enters its virtual environment
    local command
    command=$(line "$1")
    echo "+ $command"
    eval "$command"
}

HOME=$(mktemp -d)
export HOME
line 'apt install' | grep -qw python3-pyverbs
mkdir -p /usr/lib/python3/dist-packages
cp -r "$pyverbs" /usr/lib/python3/dist-packages/

follow '-m venv'
line 'pip install' | grep -qF '.[engine]'
# what pip would install: a .pth file that names the packages of PYTHON and the checkout, and the command
packages=$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
"$python" -c 'import sysconfig; print(*dict.fromkeys(map(sysconfig.get_path, ("purelib", "platlib"))), sep="\n")' >"$packages/borrowed.pth"
echo "$root" >>"$packages/borrowed.pth"
printf '#!/bin/sh\nexec "%s/bin/python" -m kvsim "$@"\n' "$VIRTUAL_ENV" >"$VIRTUAL_ENV/bin/kvsim"
chmod +x "$VIRTUAL_ENV/bin/kvsim"
hash -r

# without the link pyverbs is missing, and the doctor spells out the very command of the README
if kvsim doctor >"$HOME/doctor.txt"; then echo "pyverbs was there before it was linked" >&2; exit 1; fi
grep -q '^missing  pyverbs: .* -> the distribution has it: ln -s /usr/lib/python3/dist-packages/pyverbs ' "$HOME/doctor.txt"

follow 'ln -s'
python -c 'import pyverbs, sys; assert pyverbs.__path__[0].startswith(sys.prefix), pyverbs.__path__'
follow 'ulimit -l'
follow 'kvsim doctor'
echo "the README's recipe leads to a device that opens"
