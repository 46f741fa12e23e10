"""Write `with torch.no_grad():` blocks of a traced network into its graph. Imports torch.

`torch.export` makes each such block a function of its own. Inlined, its operators are seen as all
others are; the switch is kept for training.
"""

import operator
from typing import Any

import torch
from torch import fx

GRADIENT_SWITCHES = frozenset({torch.is_grad_enabled, torch._C._set_grad_enabled})


def inline_blocks(module: fx.GraphModule) -> None:
    """Replace the calls of such blocks in place, nested ones too."""
    graph = module.graph
    for node in list(graph.nodes):
        if node.target is not torch.ops.higher_order.wrap_with_set_grad_enabled:
            continue
        enabled, called, *operands = node.args
        assert isinstance(called, fx.Node)
        block = module.get_submodule(str(called.target))
        assert isinstance(block, fx.GraphModule)
        inline_blocks(block)
        with graph.inserting_before(node):
            before = graph.call_function(torch.is_grad_enabled)
            graph.call_function(torch._C._set_grad_enabled, (enabled,))
            results = _copy(block.graph, graph, operands)
            graph.call_function(torch._C._set_grad_enabled, (before,))
        for user in list(node.users):
            assert user.target is operator.getitem
            user.replace_all_uses_with(results[user.args[1]])
            graph.erase_node(user)
        graph.erase_node(node)
        if not called.users:
            graph.erase_node(called)


def _copy(source: fx.Graph, target: fx.Graph, operands: list[Any]) -> list[Any]:
    """Copy the operators of a block; return the nodes of its results."""
    copies: dict[fx.Node, Any] = {}
    waiting = iter(operands)
    for node in source.nodes:
        if node.op == "placeholder":
            copies[node] = next(waiting)
        elif node.op == "output":
            results: Any = node.args[0]
            return [copies[result] for result in results]
        else:
            copies[node] = target.node_copy(node, lambda one: copies[one])
    raise ValueError("a block without output")
