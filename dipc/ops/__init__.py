"""The operators, one file each, and nothing else: a helper's name begins with `_`. `dipc.ir.operators` finds them."""
