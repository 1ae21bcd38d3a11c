"""Where values live that loops carry, branches yield and the function returns (level 2): one buffer each.

`assign-destinations` asks for it: a room that both branches of an `scf.if` fill, and copies home where a choice has led
a value elsewhere.
"""

from __future__ import annotations

from xdsl.dialects import func, scf, tensor
from xdsl.ir import Block, Operation, SSAValue

from sofie import structured
from sofie.dialects.types import shape_of
from sofie.extents import values
from sofie.reshapes import reshaped
from sofie.rewrite import erase
from sofie.sharing import chain, outside, place_in, root, yields


def take_root(value: SSAValue, destination: SSAValue, block: Block) -> bool:
    """Lets the chain of `value` end in `destination` instead of its `tensor.empty`, where all of it is covered.

    The `tensor.empty` must stand in `block`, where `destination` is known from the start.
    """
    links = list(chain(value))
    end = links[-1]
    if not isinstance(end.owner, tensor.EmptyOp) or any(isinstance(v.owner, tensor.ExtractSliceOp) for v in links):
        return False
    empty = end.owner
    first = place_in(block, empty)
    if first is None:
        return False
    end.replace_all_uses_with(reshaped(destination, shape_of(end), first))
    erase(empty)
    return True


def give_room(branching: scf.IfOp) -> None:
    """Both branches compute a result in the same `tensor.empty`, which stands before the `scf.if`."""
    block = branching.parent_block()
    assert block is not None
    for k, result in enumerate(branching.output):
        if structured.is_tensor(result):
            homes = [_home(last.operands[k], last) for last in yields(branching)]
            if homes[0] is not None and all(root(home) is root(homes[0]) for home in homes if home is not None):
                continue  # both update what is there
            empty = tensor.EmptyOp(values(shape_of(result), branching), result.type)
            empty.tensor.name_hint = result.name_hint
            block.insert_op_before(empty, branching)
            for last in yields(branching):
                branch = last.parent_block()
                assert branch is not None
                if not take_root(last.operands[k], empty.tensor, branch):
                    _copy_before(last, k, empty.tensor)


def settle(function: func.FuncOp) -> None:
    """Where a copy has led a chain elsewhere, the value is copied home at the end of its loop, branch or function."""
    for op in reversed(list(function.walk())):
        if isinstance(op, scf.ForOp):
            _settle_loop(op)
        elif isinstance(op, scf.IfOp):
            _settle_branches(op)
    last = function.body.block.last_op
    assert last is not None
    for k, argument in enumerate(function.body.block.args[len(function.body.block.args) - len(last.operands) :]):
        if root(last.operands[k]) is not argument:
            _copy_before(last, k, argument)


def _settle_loop(loop: scf.ForOp) -> None:
    """What an iteration yields lies in the carried buffer: computed there, or copied after all that reads it.

    A value that another carried buffer holds is copied aside first: two of them may change places.
    """
    carried, (last,) = loop.body.block.args[1:], yields(loop)
    moving = [
        k
        for k, (value, argument) in enumerate(zip(last.operands, carried, strict=True))
        if structured.is_tensor(argument) and not _lies_in_all_of(value, argument)
    ]
    for k in moving:
        if any(root(last.operands[k]) is carried[j] for j in moving):
            aside = tensor.EmptyOp(values(shape_of(carried[k]), last), carried[k].type)
            loop.body.block.insert_op_before(aside, last)
            _copy_before(last, k, aside.tensor)
    for k in moving:
        _copy_before(last, k, carried[k])


def _settle_branches(branching: scf.IfOp) -> None:
    ends = yields(branching)
    for k, result in enumerate(branching.output):
        if not structured.is_tensor(result):
            continue
        homes = [_home(last.operands[k], last) for last in ends]
        if any(home is not homes[0] for home in homes) or homes[0] is None or homes[0].type != result.type:
            empty = tensor.EmptyOp(values(shape_of(result), branching), result.type)
            block = branching.parent_block()
            assert block is not None
            block.insert_op_before(empty, branching)
            for last in ends:
                _copy_before(last, k, empty.tensor)


def _home(value: SSAValue, last: scf.YieldOp) -> SSAValue | None:
    """The value outside the branch that ends in `last` in all of which `value` lies; None where it is only a part."""
    branch = last.parent_block()
    assert branch is not None
    home = outside(value, branch)
    links = list(chain(value))
    inside = links[: links.index(home)] if home is not None else []
    return None if any(isinstance(v.owner, tensor.ExtractSliceOp) for v in inside) else home


def _lies_in_all_of(value: SSAValue, end: SSAValue) -> bool:
    links = list(chain(value))
    return links[-1] is end and not any(isinstance(v.owner, tensor.ExtractSliceOp) for v in links)


def _copy_before(last: Operation, k: int, destination: SSAValue) -> None:
    """Copies operand `k` of a terminator into `destination`, as the last thing before it."""
    copy = structured.copy_op(last.operands[k], destination)
    owner = last.operands[k].owner
    if isinstance(owner, Operation):
        copy.location = owner.location
    block = last.parent_block()
    assert block is not None
    block.insert_op_before(copy, last)
    last.operands[k] = copy.results[0]
