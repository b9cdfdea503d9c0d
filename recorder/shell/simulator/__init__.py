"""A simulated exchange that speaks real providers' protocols over real sockets."""

from recorder.shell.simulator.server import Simulator

__all__ = ["Simulator"]
