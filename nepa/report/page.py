"""results/report.html: the report as one file that needs no network, with its pictures and its table.csv inside."""

import base64
import mimetypes
from importlib.resources import files
from pathlib import Path
from urllib.parse import urlsplit

import jinja2
from markdown_it import MarkdownIt
from markdown_it.token import Token

from nepa.report.markdown import anchor


def write_page(document: str, folder: Path) -> str:
    """The Markdown report as HTML.

    Args:
        folder: that the document's pictures and files are relative to.
    """
    # No raw HTML: what others' results say must not become part of the page's markup.
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse(document)
    for position, token in enumerate(tokens):
        if token.type == "heading_open":
            token.attrSet("id", anchor(_text(tokens[position + 1])))
        for child in token.children or []:
            address = str(child.attrGet("src") or child.attrGet("href") or "")
            # Nor may they have this machine's files put into it.
            if child.type not in ("image", "link_open") or not _lies_in(folder, folder / address):
                if child.type == "link_open" and not address.startswith("#") and not urlsplit(address).scheme:
                    del child.attrs["href"]  # the page may lie elsewhere than what is around it here
                continue
            child.attrSet("src" if child.type == "image" else "href", _embedded(folder / address))
            if child.type == "link_open":
                child.attrSet("download", address)
    title = next(_text(tokens[number + 1]) for number, token in enumerate(tokens) if token.tag == "h1")
    template = jinja2.Template(files("nepa.report").joinpath("page.html.j2").read_text(), keep_trailing_newline=True)
    return template.render(title=title, body=parser.renderer.render(tokens, parser.options, {}))


def _text(heading: Token) -> str:
    return "".join(child.content for child in heading.children or [])


def _lies_in(folder: Path, file: Path) -> bool:
    return file.is_file() and file.resolve().is_relative_to(folder.resolve())


def _embedded(file: Path) -> str:
    kind, _ = mimetypes.guess_type(file.name)
    return f"data:{kind};base64,{base64.b64encode(file.read_bytes()).decode()}"
