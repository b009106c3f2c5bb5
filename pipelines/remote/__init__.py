"""Files in an object store, read through a sparse local file that fills on demand.

``open_remote`` (``file``) opens a URL; the file it returns has a local path that can be
memory-mapped, and the bytes that ``held`` names are there inside its block.
"""
