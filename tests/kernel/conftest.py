"""Kernel tests run in the sandbox, and each must leave it as it was."""

from support.plugin import inside_the_sandbox, leaves_nothing_behind

__all__ = ["inside_the_sandbox", "leaves_nothing_behind"]
