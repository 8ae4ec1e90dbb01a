"""Every loop over data, in constant memory: floats to codes, codes to floats, codes to counts, codes to a table.

A worker reads a block by position into its own buffer and computes. Codes go to the caller, who writes them in order;
floats are written by position. Workers run a few blocks ahead, so reading, computing and writing overlap. Knows blocks
and backends; files are opened, named and finished by `jobs`. Each command imports the loops that it needs:

encode.py     floats -> codes; overflow.py: NaN in what is computed from finite floats
decode.py     codes -> floats
samples.py    samples -> codes
merge.py      codes of parts or samples -> codes of the whole
count.py      codes -> counts
compare.py    codes against their source
survey.py     keys, texts and sizes of samples
table.py      every code -> a row
vectors.py    floats -> blocks of vectors
workers.py    the threads that all of them use
"""
