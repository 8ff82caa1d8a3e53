"""The pool and its tools from Python."""
