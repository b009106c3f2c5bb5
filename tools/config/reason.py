"""Why a file of settings cannot be read, in one line."""

from __future__ import annotations

import yaml


def reason_of(error: Exception) -> str:
    """Return an error's text in one line; YAML's own is a drawing of several lines.

    >>> try:
    ...     yaml.safe_load("method: [moco")
    ... except yaml.YAMLError as error:
    ...     print(reason_of(error))
    line 1: expected ',' or ']', but got '<stream end>'
    """
    if isinstance(error, yaml.MarkedYAMLError) and error.problem and error.problem_mark:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return " ".join(str(error).split())
