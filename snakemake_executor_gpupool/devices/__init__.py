"""The pool's devices: what there is, who holds it, who is next."""
