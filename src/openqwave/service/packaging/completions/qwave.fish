# Completion of qwave(1) for fish. What may come next the command itself says, so this gets never old.

# After `--` stands a command of its own.
function __qwave_has_command
    contains -- -- (commandline --current-process --tokenize --cut-at-cursor)
end

function __qwave_complete
    set --local words (commandline --current-process --tokenize --cut-at-cursor)
    set --local found (
        _QWAVE_COMPLETE=complete_fish \
        _TYPER_COMPLETE_FISH_ACTION=get-args \
        _TYPER_COMPLETE_ARGS=(commandline --current-process --cut-at-cursor) \
        $words[1] 2>/dev/null | string match --regex '.+'
    )
    # Names of files where it knows nothing.
    and string join \n -- $found
    or __fish_complete_path (commandline --current-token)
end

function __qwave_complete_command
    set --local words (commandline --current-process --tokenize --cut-at-cursor)
    set --local before (contains --index -- -- $words)
    set --erase words[1..$before]
    complete --do-complete (string join ' ' -- (string escape -- $words) (commandline --current-token))
end

complete --command qwave --no-files --condition 'not __qwave_has_command' --arguments '(__qwave_complete)'
complete --command qwave --no-files --condition __qwave_has_command --arguments '(__qwave_complete_command)'
