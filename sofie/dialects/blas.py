"""The blas dialect: contractions by the name a BLAS library knows them under (levels 3 and 4)."""

from __future__ import annotations

from xdsl.dialects.builtin import BoolAttr, MemRefType
from xdsl.ir import Dialect, SSAValue
from xdsl.irdl import IRDLOperation, ParsePropInAttrDict, irdl_op_definition, operand_def, prop_def
from xdsl.utils.exceptions import VerifyException

from sofie.dialects.types import shape_of


@irdl_op_definition
class GemmOp(IRDLOperation):
    """`blas.gemm %a, %b, %c`: C += A' B' on row-major matrices, A' (M, K) and B' (K, N) transposed where said.

    C text: `cblas_sgemm(CblasRowMajor, ta, tb, M, N, K, 1, a, lda, b, ldb, 1, c, ldc)`; meaning: `c += a' @ b'`.
    """

    name = "blas.gemm"

    a = operand_def(MemRefType)
    b = operand_def(MemRefType)
    c = operand_def(MemRefType)
    transpose_a = prop_def(BoolAttr)
    transpose_b = prop_def(BoolAttr)

    irdl_options = (ParsePropInAttrDict(),)
    assembly_format = "$a `,` $b `,` $c attr-dict `:` type($a) `,` type($b) `,` type($c)"

    def __init__(self, a: SSAValue, b: SSAValue, c: SSAValue, transpose_a: bool, transpose_b: bool) -> None:
        flags = {"transpose_a": BoolAttr.from_bool(transpose_a), "transpose_b": BoolAttr.from_bool(transpose_b)}
        super().__init__(operands=[a, b, c], properties=flags)

    @property
    def sizes(self) -> tuple[int, int, int]:
        """(M, N, K)."""
        m, n = shape_of(self.c)
        k = shape_of(self.a)[0 if self.transpose_a.value.data else 1]
        return m, n, k

    def verify_(self) -> None:
        m, n, k = self.sizes
        a = (k, m) if self.transpose_a.value.data else (m, k)
        b = (n, k) if self.transpose_b.value.data else (k, n)
        if shape_of(self.a) != a or shape_of(self.b) != b:
            raise VerifyException(f"blas.gemm of {shape_of(self.a)} and {shape_of(self.b)} into {(m, n)}")


Blas = Dialect("blas", [GemmOp], [])
