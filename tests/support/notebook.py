"""Run a notebook's code cells in order in this process, as Jupyter does; needs no Jupyter.

python tests/support/notebook.py FILE.ipynb              run it
python tests/support/notebook.py FILE.ipynb --write      and keep the outputs in the file
python tests/support/notebook.py FILE.ipynb --set CODE   run CODE after the cell of parameters
"""

from __future__ import annotations

import argparse
import ast
import base64
import contextlib
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

from PIL import Image


def run(notebook: dict[str, Any], parameters: str = "") -> None:
    """Run every code cell, and replace its outputs by the new ones; an error ends the run."""
    names: dict[str, Any] = {"__name__": "__main__"}
    count = 0
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        count += 1
        source = "".join(cell["source"])
        printed = io.StringIO()
        with contextlib.redirect_stdout(Both(printed, sys.stdout)):
            value = evaluated(source, names)
            if "parameters" in cell["metadata"].get("tags", []):
                exec(parameters, names)
        cell["execution_count"] = count
        cell["outputs"] = list(outputs(printed.getvalue(), value, count))


class Both(io.TextIOBase):
    """A stream that writes to two."""

    def __init__(self, *streams: Any) -> None:
        self.streams = streams

    def write(self, text: str, /) -> int:
        for stream in self.streams:
            stream.write(text)
            stream.flush()
        return len(text)


def evaluated(source: str, names: dict[str, Any]) -> object:
    """Run a cell; return the value of its last line if that is an expression."""
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    if last is None:
        return None
    return eval(compile(ast.Expression(last.value), "cell", "eval"), names)


def outputs(printed: str, value: object, count: int) -> Any:
    """A cell's outputs in the notebook's format; pictures take the smaller of PNG and JPEG."""
    if printed:
        yield {"name": "stdout", "output_type": "stream", "text": printed.splitlines(True)}
    if value is None:
        return
    data = {"text/plain": [repr(value)]}
    if isinstance(value, Image.Image):
        data = {"text/plain": ["<picture>"]}
        files = {kind: encoded(value, kind) for kind in ("png", "jpeg")}
        kind = min(files, key=lambda name: len(files[name]))
        data[f"image/{kind}"] = [base64.b64encode(files[kind]).decode()]
    yield {"output_type": "execute_result", "execution_count": count, "metadata": {}, "data": data}


def encoded(image: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **({"quality": 80} if kind == "jpeg" else {"optimize": True}))
    return file.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--set", default="")
    args = parser.parse_args()
    notebook = json.loads(args.file.read_text(encoding="utf-8"))
    path = args.file.absolute()
    os.chdir(path.parent)
    run(notebook, args.set)
    if args.write:
        text = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
