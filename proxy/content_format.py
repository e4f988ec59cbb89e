"""Whether a chat template takes content as a string or as a list of parts, read off its syntax tree.

The rule is vLLM's (`_detect_content_format` in `renderers/hf.py`): a template that loops over a message's
content takes a list. vLLM then gives it a list even for plain text, so the same answer is needed here.
"""

from collections.abc import Iterator

from jinja2 import nodes

from proxy.chat_messages import ContentFormat


class _NotAName(Exception):
    """A target such as `ns.messages` or `a, b`, on which vLLM gives up and assumes a string."""


def content_format(tree: nodes.Template) -> ContentFormat:
    """ "openai" if some loop of the template goes over a message's content, else "string"."""
    try:
        return "openai" if any(_content_loops(tree)) else "string"
    except _NotAName:
        return "string"


def _content_loops(tree: nodes.Template) -> Iterator[bool]:
    messages = _message_names(tree)
    in_macros: set[int] = set()
    for macro in tree.find_all(nodes.Macro):
        given_content = _content_parameters(tree, macro, messages)
        for loop in macro.find_all(nodes.For):
            in_macros.add(id(loop))
            if isinstance(loop.iter, nodes.Name) and loop.iter.name in given_content:
                yield bool(_name(loop.target))
    for loop in tree.find_all(nodes.For):
        over_name = isinstance(loop.iter, nodes.Name) and loop.iter.name == "content"
        if _is_content(loop.iter, messages) or (over_name and id(loop) not in in_macros):
            yield bool(_name(loop.target))


def _message_names(tree: nodes.Template) -> set[str]:
    """Names that a loop over the messages gives to one message."""
    lists = _aliases(tree, "messages")
    return {
        _name(loop.target) for loop in tree.find_all(nodes.For) if any(_is_access(loop.iter, name) for name in lists)
    }


def _aliases(tree: nodes.Template, name: str) -> set[str]:
    known, open_names = {name}, [name]
    while open_names:
        current = open_names.pop()
        for assignment in tree.find_all(nodes.Assign):
            if _is_access(assignment.node, current) and (alias := _name(assignment.target)) not in known:
                known.add(alias)
                open_names.append(alias)
    return known


def _content_parameters(tree: nodes.Template, macro: nodes.Macro, messages: set[str]) -> set[str]:
    """The macro's parameters that some call gives a message's content."""
    names = [argument.name for argument in macro.args]
    given: set[str] = set()
    for call in tree.find_all(nodes.Call):
        if isinstance(call.node, nodes.Name) and call.node.name == macro.name:
            positional = zip(names, call.args, strict=False)
            by_keyword = ((keyword.key, keyword.value) for keyword in call.kwargs if keyword.key in names)
            given |= {name for name, value in [*positional, *by_keyword] if _is_content(value, messages)}
    return given


def _is_content(node: nodes.Node, messages: set[str]) -> bool:
    return any(_is_access(node, name, "content") for name in messages)


def _is_access(node: nodes.Node | None, name: str, key: str | None = None) -> bool:
    """Is this `name` (or `name.key`, `name['key']`), perhaps filtered, tested or sliced?"""
    match node:
        case nodes.Filter() | nodes.Test():
            return _is_access(node.node, name, key)
        case nodes.Getitem(arg=nodes.Slice()):
            return _is_access(node.node, name, key)
        case nodes.Getitem(arg=nodes.Const(value=value)):
            return key is not None and value == key and _is_variable(node.node, name)
        case nodes.Getattr():
            return node.attr == key and _is_variable(node.node, name)
        case _:
            return key is None and _is_variable(node, name)


def _is_variable(node: nodes.Node | None, name: str) -> bool:
    return isinstance(node, nodes.Name) and node.ctx == "load" and node.name == name


def _name(target: nodes.Node) -> str:
    if not isinstance(target, nodes.Name):
        raise _NotAName
    return target.name
