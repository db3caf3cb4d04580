"""float16 in kernels: NumPy's arrays of it reach these as bits, for Numba has no such type.

Imported by kernels that are called for every vector, so it is not to import anything heavy.
"""

from __future__ import annotations

import platform
from typing import Any

from llvmlite import binding, ir
from numba import types
from numba.core import config
from numba.extending import intrinsic

_SHIFT, _SIGN, _REST = 13, 0x8000, 0x7FFF
_REBIAS = 2.0**112
"""float32 counts its exponents from 127 and float16 from 15: the bits, moved to their places, are so much too small."""


def _converts() -> bool:
    """Whether the processor that kernels are made for has an instruction for it; x86 without F16C has none."""
    if platform.machine().lower() in ("arm64", "aarch64"):
        return True
    chosen = vars(config).get("CPU_NAME") or vars(config).get("CPU_FEATURES")  # a user may ask for less than is there
    return not chosen and bool(binding.get_host_cpu_features().get("f16c"))


def _single(typing_context: Any, bits: Any) -> Any:
    """Return the float32 of a finite float16. bits: uint16. For kernels."""

    def convert(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        half = arguments[0]
        if _converts():
            return builder.fpext(builder.bitcast(half, ir.HalfType()), ir.FloatType())
        word = ir.IntType(32)
        wide = builder.zext(half, word)
        sign = builder.shl(builder.and_(wide, ir.Constant(word, _SIGN)), ir.Constant(word, 16))
        rest = builder.shl(builder.and_(wide, ir.Constant(word, _REST)), ir.Constant(word, _SHIFT))
        small = builder.bitcast(builder.or_(sign, rest), ir.FloatType())
        return builder.fmul(small, ir.Constant(ir.FloatType(), _REBIAS))

    return types.float32(types.uint16), convert


single: Any = intrinsic(_single)
