"""The one exception that means: the input is at fault, and this line says how to mend it."""


class InputError(ValueError):
    """Bad input from outside (a file, a config, a name). The message names the thing and the way out."""
