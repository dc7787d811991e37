"""The controller's own Python: the command, the runner adapter, the lab, the sweep and the report."""

__version__ = "0.1.0"
