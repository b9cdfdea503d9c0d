"""Loads and stores at any byte of a uint8 array, for compiled code: columns of packed rows and of wire formats.

Little endian, as every platform here is. No bound is checked: the caller has made sure that the bytes are there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np import arrayobj


def _loader(result: types.Integer, bits: int):
    def load(typingctx, array, index):
        def generate(context, builder, signature, args):
            data = arrayobj.make_array(signature.args[0])(context, builder, args[0]).data
            where = cgutils.gep(builder, data, args[1])
            return builder.load(builder.bitcast(where, ir.IntType(bits).as_pointer()), align=1)

        return result(array, types.intp), generate

    return load


def _storer(value_type: types.Integer, bits: int):
    def store(typingctx, array, index, value):
        def generate(context, builder, signature, args):
            data = arrayobj.make_array(signature.args[0])(context, builder, args[0]).data
            where = cgutils.gep(builder, data, args[1])
            builder.store(args[2], builder.bitcast(where, ir.IntType(bits).as_pointer()), align=1)
            return context.get_dummy_value()

        return types.none(array, types.intp, value_type), generate

    return store


load64: Callable[..., Any] = intrinsic(_loader(types.uint64, 64))
load_i64: Callable[..., Any] = intrinsic(_loader(types.int64, 64))
load_i32: Callable[..., Any] = intrinsic(_loader(types.int32, 32))
store64: Callable[..., Any] = intrinsic(_storer(types.uint64, 64))
store16: Callable[..., Any] = intrinsic(_storer(types.uint16, 16))
