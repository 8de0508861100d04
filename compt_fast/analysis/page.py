"""The report's files: one self-contained page, and every picture and table beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from compt_fast.analysis import draw
from compt_fast.analysis.exhibits import Exhibit, Section, with_own_names
from compt_fast.utils.errors import InputError
from compt_fast.utils.files import new_file, write_text


def write_report(
    folder: Path,
    sections: Sequence[Section],
    *,
    title: str,
    about: Sequence[str],
    missing: Sequence[str],
    absent: str,
    after_each: Callable[[], None] = lambda: None,
) -> Path:
    """Write `index.html` and the files of every exhibit into `folder`; returns the page's path.

    `about` are lines under the title, `missing` what was not there, `absent` what other runs would
    add. `after_each` is called after every exhibit. Raises `InputError` where the folder cannot be
    written.
    """
    sections = with_own_names(sections)
    exhibits = [exhibit for section in sections for exhibit in section.all()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        pictures = {}
        for exhibit in exhibits:
            pictures[exhibit.name] = _write(folder, exhibit)
            after_each()
        page = folder / "index.html"
        write_text(page, _page(sections, pictures, title=title, about=about, missing=missing, absent=absent))
    except OSError as error:
        raise InputError(f"-o {folder}: cannot be written ({error.strerror})") from None
    return page


def _write(folder: Path, exhibit: Exhibit) -> Markup:
    """The files of an exhibit; its picture as an element of the page."""
    write_text(folder / f"{exhibit.name}.csv", exhibit.table.csv())
    write_text(folder / f"{exhibit.name}.md", f"{exhibit.says}\n\n{exhibit.table.markdown()}\n{exhibit.metric}\n")
    if exhibit.picture is None:
        return Markup("")
    text = draw.svg(exhibit.picture)
    write_text(folder / f"{exhibit.name}.svg", text)
    with new_file(folder / f"{exhibit.name}.png") as temporary:
        temporary.write_bytes(draw.png(exhibit.picture))
    return Markup(draw.inline(text, exhibit.name, f"{exhibit.title}: {exhibit.says}"))


def _page(sections: Sequence[Section], pictures: dict[str, Markup], **rest: object) -> str:
    environment = Environment(
        loader=PackageLoader("compt_fast.analysis", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(sections=sections, pictures=pictures, **rest) + "\n"
