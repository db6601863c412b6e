"""Errors of the bridge, each with the exit code that the command returns for it."""


class BridgeError(Exception):
    """Unusable input: unknown asset, unreadable file, config that KFP cannot express. Exit code 2."""

    exit_code = 2


class ExportError(BridgeError):
    """Parts of the graph have no counterpart in KFP; the message lists all of them. Exit code 1."""

    exit_code = 1


class StepError(BridgeError):
    """A step of the exported pipeline cannot run, or its assets failed. Exit code 1."""

    exit_code = 1


class GateError(StepError):
    """A blocking check failed; a retry would fail again. Exit code 3."""

    exit_code = 3


class RunError(BridgeError):
    """A run or a request to the KFP API failed. Exit code 1."""

    exit_code = 1
