#!/usr/bin/env bash
# Names everything that make setup needs and this machine lacks, all at once, each with its remedy.
# Usage: check_prerequisites.sh PYTHON
set -uo pipefail

python=${1:-python3.11}
missing=0

lacks() { # what, then one remedy per line
    [ $((missing++)) -eq 0 ] && printf 'Missing on this machine:\n'
    printf '\n  %s\n' "$1"
    shift
    printf '      %s\n' "$@"
}

if ! "$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
    lacks "Python 3.11 ($python is not one)" \
        "Debian 12:   sudo apt-get install python3.11 python3.11-venv python3.11-dev" \
        "Fedora:      sudo dnf install python3.11-devel" \
        "macOS:       brew install python@3.11" \
        "anywhere:    pyenv install 3.11" \
        "Have one elsewhere? make setup PYTHON=/path/to/python3.11"
else
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        lacks "Python's venv module" "Debian: sudo apt-get install python3.11-venv"
    "$python" -c 'import os, sys, sysconfig as s; sys.exit(not os.path.exists(os.path.join(s.get_path("include"), "Python.h")))' ||
        lacks "Python's headers, to build Horovod" \
            "Debian: sudo apt-get install python3.11-dev" \
            "Fedora: sudo dnf install python3.11-devel"
fi

command -v g++ >/dev/null ||
    lacks "g++, to build Horovod and the CPU kernels" \
        "Debian: sudo apt-get install g++" \
        "Fedora: sudo dnf install gcc-c++" \
        "macOS:  xcode-select --install"

command -v make >/dev/null ||
    lacks "make, to build Horovod" "Debian: sudo apt-get install make" "Fedora: sudo dnf install make"

# The same Java that spark-submit will start. Spark 4.0 uses what Java 24 took away.
java=${JAVA_HOME:+$JAVA_HOME/bin/}java
version=$("$java" -version 2>&1 | sed -n 's/.* version "\([0-9]*\).*/\1/p')
if [ "${version:-0}" -lt 17 ] || [ "$version" -ge 24 ]; then
    lacks "Java 17 or 21 ($java is ${version:-not there})" \
        "Debian: sudo apt-get install openjdk-17-jre-headless" \
        "Fedora: sudo dnf install java-21-openjdk-headless" \
        "macOS:  brew install openjdk@17" \
        "Have one elsewhere? export JAVA_HOME=/path/to/java"
elif ! "$java" --list-modules 2>/dev/null | grep -q '^jdk.incubator.vector'; then
    lacks "a full Java runtime ($java lacks the module jdk.incubator.vector, which Spark asks for)" \
        "Debian: sudo apt-get install openjdk-17-jre-headless, then point JAVA_HOME to it"
fi

# PyPI's torch for Linux brings CUDA along.
free=$(df -Pk . | awk 'NR == 2 { print int($4 / 1024 / 1024) }')
if [ ! -d .venv ] && [ "$free" -lt 8 ]; then
    lacks "8 GB of free disk (here: $free GB)" "Free some, or clone the project to a larger disk."
fi

[ "$missing" -eq 0 ] || { printf '\nInstall these, then run make setup again.\n'; exit 1; }
