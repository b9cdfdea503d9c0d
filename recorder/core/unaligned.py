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


def _poker(value_type: types.Type, llvm_type: ir.Type):
    def poke(typingctx, address, value):
        def generate(context, builder, signature, args):
            where = builder.inttoptr(args[0], llvm_type.as_pointer())
            builder.store(args[1], where, align=1)
            return context.get_dummy_value()

        return types.none(types.int64, value_type), generate

    return poke


# Stores at an address: code that writes to one of several arrays by turns would count references at every turn.
poke64: Callable[..., Any] = intrinsic(_poker(types.int64, ir.IntType(64)))
poke32: Callable[..., Any] = intrinsic(_poker(types.int32, ir.IntType(32)))
poke8: Callable[..., Any] = intrinsic(_poker(types.uint8, ir.IntType(8)))
poke_double: Callable[..., Any] = intrinsic(_poker(types.float64, ir.DoubleType()))


def _caster(from_type: types.Type, to_type: types.Type, llvm_type: ir.Type):
    def cast(typingctx, bits):
        def generate(context, builder, signature, args):
            return builder.bitcast(args[0], llvm_type)

        return to_type(from_type), generate

    return cast


double_of: Callable[..., Any] = intrinsic(_caster(types.uint64, types.float64, ir.DoubleType()))
single_of: Callable[..., Any] = intrinsic(_caster(types.uint32, types.float32, ir.FloatType()))
bits_of: Callable[..., Any] = intrinsic(_caster(types.float64, types.int64, ir.IntType(64)))
