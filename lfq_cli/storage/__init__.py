"""Places: local paths, and URLs of object stores and web servers, wherever a path is taken. The only package that uses
fsspec.

urlpath.py    a URL as a path; `path_of` makes a path from any text
schemes.py    which library serves which scheme, and its names for things
stores.py     one store: what is there, ranges, uploads; every error of a library as an OSError
ranges.py     reading ahead
remote.py     an object as an input file; `open_input` opens any place
outputs.py    uploading under a condition
places.py     questions about any place: does it exist, is it a folder, what is below it
"""
