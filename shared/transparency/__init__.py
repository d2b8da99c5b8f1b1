"""An append-only log whose history cannot be rewritten unseen."""
