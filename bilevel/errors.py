"""What bilevel raises. Every error of the library is a :class:`BilevelError`."""


class BilevelError(Exception):
    """Base of every error that bilevel raises on purpose."""


class ArgumentError(BilevelError, ValueError):
    """An argument that has no meaning."""


class ShapeError(ArgumentError):
    """A shape, a number of regions or a ``topk`` that does not fit the others."""


class ArrayError(BilevelError, TypeError):
    """Not an array bilevel knows, or arrays that differ in library, device or dtype."""


class BackendUnavailable(BilevelError, ImportError):
    """A backend that does not exist, or that cannot be imported; says how to install it."""


class BackendRefused(BilevelError, RuntimeError):
    """No backend, or not the one asked for, takes this problem; says every reason."""


class WeightsError(BilevelError, ValueError):
    """Parameters that do not belong to the model they were given to."""


class InputError(BilevelError, ValueError):
    """A file, folder or setting from outside that cannot be used."""


class Stopped(BilevelError):
    """A training run that was asked to end, and saved itself before."""

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.signal = signal


class AnotherProcess(BilevelError):
    """Something that another of the processes of a training run says itself."""
