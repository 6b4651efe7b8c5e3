# Completion of qwave(1) for bash. What may come next the command itself says, so this gets never old.

_qwave() {
    local at
    # After `--` stands a command of its own, with its own completion where bash has one loaded.
    for ((at = 1; at < COMP_CWORD; at++)); do
        if [[ ${COMP_WORDS[at]} == -- ]]; then
            if declare -F _command_offset >/dev/null; then
                _command_offset $((at + 1))
            elif ((at + 1 == COMP_CWORD)); then
                mapfile -t COMPREPLY < <(compgen -c -- "$2")
            fi
            return
        fi
    done
    # $1 is the command as it was typed, which need not be on PATH.
    mapfile -t COMPREPLY < <(
        IFS=$'\n'
        COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD=$COMP_CWORD _QWAVE_COMPLETE=complete_bash \
            "${1/#\~/$HOME}" 2>/dev/null
    )
    # Nothing is one empty line.
    [[ ${COMPREPLY[0]-} ]] || COMPREPLY=()
}

# Names of files where it knows nothing.
complete -o default -F _qwave qwave
