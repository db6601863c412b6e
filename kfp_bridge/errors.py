"""The errors of the bridge, each with the exit code of the command that meets it."""


class BridgeError(Exception):
    """A mistake in what the user gave: unknown asset, unreadable file, config KFP cannot express. Exit code 2."""

    exit_code = 2


class ExportError(BridgeError):
    """Something in the graph has no counterpart in KFP; the message lists every such thing. Exit code 1."""

    exit_code = 1


class StepError(BridgeError):
    """A step of the exported pipeline cannot run, or its assets failed. Exit code 1."""

    exit_code = 1


class GateError(StepError):
    """A blocking check failed: trying the step again would not help. Exit code 3."""

    exit_code = 3


class RunError(BridgeError):
    """A run or a request to the KFP API failed. Exit code 1."""

    exit_code = 1
