"""What is wrong with a command line beyond what tyro sees."""


class UsageError(ValueError):
    """The command line asks for what cannot be; the message says what to write instead."""
