"""Small faults planted in a function's source, one at a time: another operator, a constant one larger, a lost `not`."""

from __future__ import annotations

import ast
import copy
import types
from collections.abc import Iterator
from pathlib import Path

OPERATORS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult, ast.FloorDiv: ast.Div,
    ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.MatMult: ast.Mult,
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip


def find_faults(node: ast.AST) -> Iterator[ast.AST]:
    """What may stand in this node's place."""
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        yield ast.BinOp(node.left, OPERATORS[type(node.op)](), node.right)
    if isinstance(node, ast.Compare) and type(node.ops[0]) in OPERATORS:
        yield ast.Compare(node.left, [OPERATORS[type(node.ops[0])](), *node.ops[1:]], node.comparators)
    if isinstance(node, ast.BoolOp):
        yield ast.BoolOp(OPERATORS[type(node.op)](), node.values)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.USub)):
        yield node.operand
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        yield ast.Constant(node.value + 1)
    if isinstance(node, ast.Constant) and type(node.value) is bool:
        yield ast.Constant(not node.value)


def mutants(function: ast.FunctionDef) -> Iterator[tuple[str, ast.FunctionDef]]:
    """(what was changed, "before -> after"; the function with it) for every fault in its body."""
    numbered = [node for statement in function.body for node in ast.walk(statement)]
    strict = [node.value for node in numbered if isinstance(node, ast.keyword) and node.arg == "strict"]  # no fault
    for number, node in enumerate(numbered):
        for fault in find_faults(node) if node not in strict else ():
            copied = copy.deepcopy(function)
            place = [each for statement in copied.body for each in ast.walk(statement)][number]
            changed = ast.fix_missing_locations(_Replace(place, fault).visit(copied))
            yield f"{_line_of(function, node)} -> {ast.unparse(fault)}", changed


def _line_of(function: ast.FunctionDef, node: ast.AST) -> str:
    return f"{ast.unparse(node)} (line {node.lineno - function.lineno} of {function.name})"


class _Replace(ast.NodeTransformer):
    def __init__(self, place: ast.AST, fault: ast.AST):
        self.place, self.fault = place, fault

    def visit(self, node: ast.AST) -> ast.AST:
        return self.fault if node is self.place else self.generic_visit(node)


def build(path: Path, name: str) -> Iterator[tuple[str, types.FunctionType]]:
    """Each mutant of the function `name` of the file at `path`, ready to be called."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    at = next(i for i, node in enumerate(tree.body) if isinstance(node, ast.FunctionDef) and node.name == name)
    for text, function in mutants(tree.body[at]):
        body = [*tree.body[:at], function, *(each for each in tree.body[at + 1 :] if not _is_list_of_exercises(each))]
        scope = {"__name__": f"mutant_{path.stem}"}
        exec(compile(ast.Module(body, []), str(path), "exec"), scope)
        yield text, scope[name]


def _is_list_of_exercises(node: ast.AST) -> bool:
    return isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "EXERCISES"
