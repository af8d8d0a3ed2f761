#!/bin/sh
# Run a command beside two busy loops at normal priority:  tests/hog.sh COMMAND...
# The loops end with the command, whose exit code is returned.
sh -c 'while :; do :; done' & first=$!
sh -c 'while :; do :; done' & second=$!
trap 'kill "$first" "$second" 2>/dev/null' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
"$@"
