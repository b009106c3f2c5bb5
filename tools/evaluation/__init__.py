"""The subcommands of eval.py."""
