"""Model workers: the parent's side, the child's side and the frames between them."""
