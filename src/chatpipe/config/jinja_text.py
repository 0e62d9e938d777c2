"""Whether a chat template's text is Jinja, as transformers reads it."""

from __future__ import annotations

from functools import lru_cache

from chatpipe.utils.sentences import shortened


@lru_cache(maxsize=64)
def syntax_fault(text: str) -> str | None:
    """Return what is wrong with the syntax of a chat template, with the template's line."""
    from jinja2 import Environment, TemplateSyntaxError, nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.parser import Parser

    class Generation(Extension):
        """Transformers' tag around a reply."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Parser) -> nodes.Node:
            line = next(parser.stream).lineno
            return nodes.Scope(parser.parse_statements(("name:endgeneration",), True), lineno=line)

    try:
        # As transformers compiles it; names of filters and tests are looked up here, too.
        environment = Environment(extensions=[loopcontrols, Generation])
        environment.compile(text)
    except TemplateSyntaxError as error:
        return f"line {error.lineno} of the Jinja text: {shortened(str(error.message))}"
    return None
