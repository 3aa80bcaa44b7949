"""A manifest to go on from, made of what somebody has: prompts, a table, or a folder of images.

Rule: what is written loads and expands at once; where nothing tells ids apart they are left out, and what can only be
guessed stands in a comment.
"""

from __future__ import annotations

import glob
import json
import os
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import yaml

from rsbatch.errors import UsageError
from rsbatch.identity import IMAGE_SUFFIXES, check_id, path_fold, slug
from rsbatch.manifest.faults import Fault
from rsbatch.manifest.sources import rows

_TABLES: Final = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".yaml", ".yml")
_ID_COLUMNS: Final = ("id", "sku", "key", "slug", "name", "title")
_PROMPT_COLUMNS: Final = ("prompt", "text", "description", "caption")
_IMAGE_COLUMNS: Final = ("image", "photo", "picture", "image_url", "photo_url", "url", "file", "path")
_ID_WORDS: Final = 6
_PROMPT_PARTS: Final = 4


def tasks_from(source: Path, folder: Path) -> str:
    """Give the entries under `tasks` for `source`, in a manifest that will be in `folder`; raises UsageError."""
    try:
        if source.is_dir():
            return _from_folder(source, folder)
        if source.suffix.lower() in _TABLES:
            return _from_table(source, folder)
        return _from_prompts(source.read_text("utf-8-sig"), source)
    except Fault as fault:
        raise UsageError(f"--from {source}: {fault.message}; nothing was written") from fault
    except UnicodeDecodeError as exc:
        raise UsageError(f"--from {source}: is not UTF-8 text; save it as UTF-8. Nothing was written") from exc
    except OSError as exc:
        raise UsageError(f"--from {source}: cannot be read ({exc.strerror}); nothing was written") from exc


def _from_prompts(text: str, source: Path) -> str:
    prompts = [line.strip() for line in text.split("\n") if line.strip()]
    if not prompts:
        raise UsageError(f"--from {source}: has no prompts, one a line; nothing was written")
    taken: Counter[str] = Counter()
    entries = []
    for prompt in prompts:
        made = base = slug(" ".join(prompt.split()[:_ID_WORDS]))
        while taken[path_fold(made)]:
            taken[path_fold(base)] += 1
            made = f"{base}-{taken[path_fold(base)]}"
        taken[path_fold(made)] += 1
        entries.append(f"  - id: {_quoted(made)}\n    prompt: {_quoted(_plain(prompt))}\n")
    return "".join(entries)


def _from_table(source: Path, folder: Path) -> str:
    columns: dict[str, None] = {}
    ids = _Ids(_ID_COLUMNS)
    full: Counter[str] = Counter()
    found: Counter[str] = Counter()
    gaps: dict[str, str] = {}
    count = 0
    for item in rows(source.parent, source.name):
        count += 1
        texts = {name: "" if value is None else str(value).strip() for name, value in item.value.items()}
        columns |= dict.fromkeys(texts)
        ids.see(texts)
        full.update(name for name, text in texts.items() if text)
        gaps = {name: item.label for name in columns if not texts.get(name)} | gaps
        found.update(name for name, text in texts.items() if name.lower() in _IMAGE_COLUMNS and _is_image(text, folder))
    whole = [name for name in columns if full[name] == count]
    lines = [f"rows: {_quoted(_plain(_relative(source, folder)))}"]
    if (made := ids.best("row")) is not None:
        lines.insert(0, f"id: {_quoted(made)}")
    images = _first(_IMAGE_COLUMNS, columns)
    parts = [name for name in whole if name != images and name.lower() not in {"id", "sku", "key"}]
    meant = _first(_PROMPT_COLUMNS, columns)
    if meant and meant not in whole and (meant.lower() == "prompt" or not parts):  # an id is no prompt to buy
        raise Fault(
            f"{gaps.get(meant, 'row 1')}: the column {meant!r} is empty there; fill it in, or rename the column"
        )
    parts = parts or whole or list(columns)
    prompt = _first(_PROMPT_COLUMNS, whole)
    words = [_cell("row", name) for name in ([prompt] if prompt else parts[:_PROMPT_PARTS])]
    lines.append(f"prompt: {_quoted(', '.join(words))}")
    if images is not None:
        line = f"images: [{_quoted(_cell('row', images))}]"
        fits = found[images] == count
        lines.append(line if fits else f"# {line}   # URLs, or files relative to this manifest; some rows have neither")
    return f"  {_comment(columns)}\n" + _entry(lines)


def _from_folder(source: Path, folder: Path) -> str:
    found = sorted(path for path in source.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    if not found:
        raise UsageError(f"--from {source}: has no images ({', '.join(IMAGE_SUFFIXES)}); nothing was written")
    if (odd := next((path for path in found if not path.name.isprintable()), None)) is not None:
        raise UsageError(f"--from {source}: rename {odd.name!a}, its name cannot be written down; nothing was written")
    ids = _Ids(("stem", "name"))
    for path in found:
        ids.see({"stem": path.stem, "name": path.name})
    made = ids.best("file")
    entries = []
    for suffix in sorted({path.suffix for path in found}):
        pattern = f"{glob.escape(_relative(source, folder))}/*{suffix}"
        lines = [f"id: {_quoted(made)}"] if made is not None else []
        lines += [
            f"files: {_quoted(_plain(pattern))}",
            'images: ["{{ file.path }}"]',
            "prompt: Remove the background   # what is to be done with each image",
        ]
        entries.append(_entry(lines))
    return "\n".join(entries)


class _Ids:
    """Tells which of some columns tells all rows apart, as it is or made fit by `slug`."""

    def __init__(self, names: Iterable[str]) -> None:
        self._order = tuple(names)
        self._seen: dict[tuple[str, bool], set[int]] = {}
        self._bad: set[tuple[str, bool]] = set()
        self._count = 0

    def see(self, texts: dict[str, str]) -> None:
        self._count += 1
        for name, text in texts.items():
            if name.lower() not in self._order:
                continue
            for slugged in (False, True):
                made = slug(text) if slugged else text
                if check_id(made) is not None:
                    self._bad.add((name, slugged))
                self._seen.setdefault((name, slugged), set()).add(hash(path_fold(made)))

    def best(self, of: str) -> str | None:
        """Give the template of an id, None if no column will do."""
        ranked = sorted(self._seen, key=lambda one: (self._order.index(one[0].lower()), one[1]))
        for name, slugged in ranked:
            if (name, slugged) not in self._bad and len(self._seen[name, slugged]) == self._count:
                return _cell(of, name, " | slug" if slugged else "")
        return None


def _first(wanted: Iterable[str], there: Iterable[str]) -> str | None:
    by_name = {name.lower(): name for name in reversed(list(there))}
    return next((by_name[name] for name in wanted if name in by_name), None)


def _cell(of: str, name: str, more: str = "") -> str:
    plain = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) is not None
    inside = f"{of}.{name}" if plain else f"{of}[{name!r}]"
    return f"{{{{ {inside}{more} }}}}"


def _entry(lines: list[str]) -> str:
    return "".join(f"  {'- ' if number == 0 else '  '}{line}\n" for number, line in enumerate(lines))


def _comment(columns: Iterable[str]) -> str:
    return "# Columns: " + ", ".join(_quoted(name).strip('"') for name in columns)


def _quoted(text: str) -> str:
    return str(yaml.safe_dump(text, default_style='"', allow_unicode=True, width=10**9)).strip()


def _plain(text: str) -> str:
    """Keep template marks from being read as such."""
    if re.search(r"\{%[-+]?\s*endraw", text):
        return f"{{{{ {json.dumps(text, ensure_ascii=False)} }}}}"
    return f"{{% raw %}}{text}{{% endraw %}}" if re.search(r"\{[{%#]", text) else text


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()


def _is_image(text: str, folder: Path) -> bool:
    return text.startswith(("https://", "http://", "data:image/")) or (bool(text) and (folder / text).is_file())
