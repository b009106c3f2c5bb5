"""The subcommands of ``eval.py``: each is a file with one dataclass, whose fields are flags."""
