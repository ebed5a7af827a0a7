"""Renders conversations with a template under a limit of time and memory. Run as a program of its own, by bounds.py.

Reads {"source", "variables", "calls", "seconds", "bytes"} from standard input and writes {"sizes": [...]}, the
characters of each rendering, None where the template raises. Invariant: imports the standard library and Jinja alone,
so that it starts in a tenth of a second, and has the sandbox, filters and tags that transformers gives to chat
templates. What does not live here: what a size or a death means (bounds.py).
"""

from __future__ import annotations

import json
import resource
import sys
from typing import Any

import jinja2
import jinja2.ext
from jinja2 import nodes
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment


class Generation(jinja2.ext.Extension):
    """The tag around an assistant's words; here it does nothing."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        """Return what stands between the tags."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def main() -> None:
    """Answer one request."""
    request = json.load(sys.stdin)
    resource.setrlimit(resource.RLIMIT_CPU, (request["seconds"], request["seconds"] + 1))
    resource.setrlimit(resource.RLIMIT_AS, (request["bytes"], request["bytes"]))
    template = environment().from_string(request["source"])
    sizes = [_size(template, request["variables"] | call) for call in request["calls"]]
    json.dump({"sizes": sizes}, sys.stdout)


def environment() -> ImmutableSandboxedEnvironment:
    """Return what chat templates are compiled in."""
    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    made.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False)
    made.globals.update(raise_exception=_raise, strftime_now=lambda form: form)
    return made


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _size(template: jinja2.Template, variables: dict[str, Any]) -> int | None:
    try:
        return len(template.render(**variables))
    except MemoryError:
        raise
    except Exception:  # whether raising is right is asked elsewhere; here only whether rendering ends
        return None


if __name__ == "__main__":
    main()
