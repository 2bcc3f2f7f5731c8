"""x"""


def write_page(a: object, b: object) -> object:
    """x"""
    return b
