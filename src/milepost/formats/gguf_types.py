"""GGML's types: how many elements a block has, in how many bytes.

https://github.com/ggml-org/ggml/blob/master/include/ggml.h (enum ggml_type) and
https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h (the blocks)
"""

from __future__ import annotations

from typing import NamedTuple

# Those whose elements lie one after another.
PLAIN = {
    **{0: "float32", 1: "float16", 28: "float64", 30: "bfloat16"},
    **{24: "int8", 25: "int16", 26: "int32", 27: "int64"},
}


class Block(NamedTuple):
    """What a quantised type is cut into."""

    name: str
    elements: int
    nbytes: int


BLOCKS = {
    2: Block("Q4_0", 32, 18),
    3: Block("Q4_1", 32, 20),
    6: Block("Q5_0", 32, 22),
    7: Block("Q5_1", 32, 24),
    8: Block("Q8_0", 32, 34),
    9: Block("Q8_1", 32, 40),
    10: Block("Q2_K", 256, 84),
    11: Block("Q3_K", 256, 110),
    12: Block("Q4_K", 256, 144),
    13: Block("Q5_K", 256, 176),
    14: Block("Q6_K", 256, 210),
    15: Block("Q8_K", 256, 292),
    16: Block("IQ2_XXS", 256, 66),
    17: Block("IQ2_XS", 256, 74),
    18: Block("IQ3_XXS", 256, 98),
    19: Block("IQ1_S", 256, 50),
    20: Block("IQ4_NL", 32, 18),
    21: Block("IQ3_S", 256, 110),
    22: Block("IQ2_S", 256, 82),
    23: Block("IQ4_XS", 256, 136),
    29: Block("IQ1_M", 256, 56),
    34: Block("TQ1_0", 256, 54),
    35: Block("TQ2_0", 256, 66),
    39: Block("MXFP4", 32, 17),
    40: Block("NVFP4", 64, 36),
    41: Block("Q1_0", 128, 18),
}
