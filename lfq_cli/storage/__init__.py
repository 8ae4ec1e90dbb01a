"""Places: local paths, and URLs of object stores and web servers, wherever a path is taken. Only here is fsspec known.

urlpath.py    a URL as a path; `path_of` makes a path of any text
schemes.py    which library serves which scheme, and what it calls things
stores.py     one store: what is there, ranges, uploads; every error of a library as an OSError
ranges.py     reading ahead
remote.py     an object as an input file; `open_input` opens any place
outputs.py    uploading under a condition
places.py     the questions that are asked of any place: is it there, is it a folder, what is below
"""
