"""How bytes are written: zip archives, pickles, protobuf messages, tables of sorted strings.

Each module reads one encoding, with limits, and knows nothing of models; `formats` does.
Bytes become plain data here, and nothing that they name is imported or run.
"""
