"""Where recipes run: a warm child process, or a container, behind one protocol."""
