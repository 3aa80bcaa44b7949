"""The manifest's keys: pydantic models with a description on every key, and the JSON Schema made of them.

Rule: shapes and single values only; what depends on several keys, on templates or on files is checked where the
manifest is compiled. Text is strict: what YAML took for a number or a date is refused where text belongs.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from decimal import Decimal
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    WithJsonSchema,
    WrapValidator,
)

from rsbatch.identity import check_id
from rsbatch.model import DEFAULT_BASE_URL, DEFAULT_KEY_ENV
from rsbatch.units import DURATION_PATTERN, MONEY_PATTERN, SIZE_PATTERN, parse_duration, parse_money, parse_size

_TEMPLATE_PATTERN: Final = r"\{\{|\{%"
OUTPUT_FORMATS: Final = ("png", "jpeg", "webp")


class Section(BaseModel):
    """A part of the manifest; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


def has_marks(value: object) -> bool:
    """Whether a value is text with template marks in it."""
    return isinstance(value, str) and ("{{" in value or "{%" in value)


def _or_text(value: Any, handler: Callable[[Any], Any]) -> Any:
    """Let text through: it is rendered and converted later."""
    return value if isinstance(value, str) else handler(value)


def _or_template(value: Any, handler: Callable[[Any], Any]) -> Any:
    return value if has_marks(value) else handler(value)


def _templated(schema: dict[str, Any]) -> WithJsonSchema:
    template = {"type": "string", "pattern": _TEMPLATE_PATTERN, "description": "A template."}
    return WithJsonSchema({"anyOf": [schema, template, {"type": "null"}]})


def _read(parse: Callable[[str], Any], *, positive: bool = True) -> PlainValidator:
    """Read a value by the text it was written as; YAML's own idea of a number is not used."""

    def check(value: Any) -> Any:
        raw = getattr(value, "raw", value)
        if isinstance(raw, bool) or not isinstance(raw, str | int):
            raise ValueError("a single value belongs here")
        made = parse(str(raw))
        if positive and made <= 0:
            raise ValueError("must be more than 0")
        return made

    return PlainValidator(check)


def _output_format(value: Any, handler: Callable[[Any], Any]) -> Any:
    text = handler(value)
    if isinstance(text, str) and not has_marks(text):
        reason = check_output_format(text)
        if reason:
            raise ValueError(reason)
    return text


def check_output_format(text: str) -> str | None:
    """Say why a text is no output format; None if it is one."""
    if text in OUTPUT_FORMATS:
        return None
    return f"{text!r} is none of png, jpeg, webp" + ("; write jpeg" if text.lower() in {"jpg", "jpe"} else "")


def _name(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("text belongs here")
    text = unicodedata.normalize("NFC", value)
    reason = check_id(text)
    if reason:
        raise ValueError(reason.replace("the id", "the name").replace("an id", "a name"))
    return text


def _base_url(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("text belongs here")
    url, parts = value.rstrip("/"), _split(value)
    if parts.username is not None or parts.password is not None:
        raise ValueError("must not have a name or password in it")
    if parts.query or parts.fragment or "?" in url or "#" in url:
        raise ValueError("must not have a ? or # in it")
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        raise ValueError("must begin with https:// (http is for this machine only)")
    return url


def is_loopback(host: str) -> bool:
    """Whether a host of a URL is this machine."""
    return host in {"localhost", "::1"} or re.fullmatch(r"127(\.\d{1,3}){3}", host) is not None


def _split(url: str) -> Any:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"is not a URL: {error}") from error
    fit = url.isascii() and url.isprintable() and " " not in url and "\\" not in url
    if parts.scheme not in {"http", "https"} or not parts.hostname or not fit or port == 0:
        raise ValueError("is not an http(s) URL with a host")
    return parts


def _ping(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("text belongs here")
    _split(value)
    return value


Optional = Annotated[str | None, Field(default=None)]
Percent = Annotated[
    Annotated[int, Field(ge=0, le=100)] | None,
    WrapValidator(_or_text),
    _templated({"type": "integer", "minimum": 0, "maximum": 100}),
]
Bit = Annotated[
    Annotated[int, Field(ge=0, le=1)] | None, WrapValidator(_or_text), _templated({"type": "integer", "enum": [0, 1]})
]
One = Annotated[int | None, WrapValidator(_or_text), _templated({"const": 1})]
Texts = Annotated[
    list[str] | None, WrapValidator(_or_template), _templated({"type": "array", "items": {"type": "string"}})
]
Object = Annotated[dict[str, Any] | None, WrapValidator(_or_template), _templated({"type": "object"})]
Format = Annotated[str | None, WrapValidator(_output_format), _templated({"enum": list(OUTPUT_FORMATS)})]
Samples = Annotated[
    Annotated[int, Field(ge=1, le=10_000)],
    WrapValidator(_or_template),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": _TEMPLATE_PATTERN}]}),
]
Duration = Annotated[
    float, _read(parse_duration), WithJsonSchema({"type": "string", "pattern": DURATION_PATTERN, "examples": ["30m"]})
]
Size = Annotated[
    int,
    _read(parse_size),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": SIZE_PATTERN}]}),
]
Money = Annotated[
    Decimal,
    _read(parse_money, positive=False),
    WithJsonSchema({"anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": MONEY_PATTERN}]}),
]
Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0, le=10_000)]


class RequestFields(Section):
    """Fields of a request; text may hold templates. An empty value leaves a default out."""

    prompt: str | None = Field(None, description="What to draw or to change. At least one of prompt and images.")
    prompt_file: str | None = Field(
        None, description="A text file with the prompt, itself a template; relative to the manifest."
    )
    model: str | None = Field(None, description="The model; the service takes gpt-image-2 if there is none.")
    images: Texts = Field(
        None, description="Reference images of one task: URLs, data: URLs or local files. Empty texts are left out."
    )
    mask: str | None = Field(None, description="Mask image; its transparent areas mark what to edit. As in images.")
    input_fidelity: str | None = Field(None, description="How closely to follow the input images, such as high.")
    size: str | None = Field(None, description="Usually WIDTHxHEIGHT, such as 1024x1024.")
    quality: str | None = Field(None, description="Such as low, medium, high.")
    background: str | None = Field(None, description="Such as transparent, opaque, auto.")
    n: One = Field(None, description="1 only; for several images of one request use samples.")
    output_format: Format = Field(None, description="png, jpeg or webp.")
    output_compression: Percent = Field(None, description="0 to 100; an explicit 0 is sent.")
    response_format: str | None = Field(None, description="Passed on to the service.")
    logo_add: Bit = Field(None, description="1 adds a logo, 0 does not; an explicit 0 is sent.")
    logo_param: Object = Field(None, description="Parameters of the logo; texts in it are templates.")
    extra: Object = Field(None, description='Sent as "extra"; texts in it are templates.')
    extra_body: Object = Field(
        None, description="Merged into the request as it is, for fields that are not listed here."
    )


REQUEST_FIELDS: Final = tuple(name for name in RequestFields.model_fields if name not in {"prompt_file", "extra_body"})
"""The service's own fields, all that its documentation lists."""


class TaskEntry(RequestFields):
    """One entry of tasks: one task, or as many as its matrix, rows or files, and samples make."""

    id: str = Field(
        "", description="The task's id, unique in the manifest. Left out: 12 hex digits of the request's hash."
    )
    matrix: dict[str, Any] = Field(
        default_factory=dict,
        description="Lists of values to combine, with include and exclude, by GitHub Actions' rules.",
        json_schema_extra={
            "additionalProperties": {"type": "array", "minItems": 1},
            "properties": {
                name: {
                    "type": "array",
                    "items": {"type": "object"},
                    "description": description,
                }
                for name, description in (
                    ("exclude", "Combinations to leave out; each names some of the axes."),
                    ("include", "Names to add to the combinations that fit, or else combinations of their own."),
                )
            },
        },
    )
    samples: Samples = Field(1, description="How many images of each request: separate tasks …-1, …-2.")
    rows: str = Field("", description="A table (csv, tsv, jsonl, json, yaml): one task a row, as row in templates.")
    files: str = Field("", description="A glob such as photos/*.png: one task a file, as file in templates.")


class Output(Section):
    """Where images go."""

    dir: str = Field(
        "outputs/{{ name }}",
        description="The folder for images and ledger, relative to the manifest; may use name, vars and run.date.",
    )
    path: str = Field("{{ id }}.{{ ext }}", description="The file of a task inside the folder, a template.")
    sidecar: bool = Field(True, description="Write <file>.json beside each image: prompt, request, job, price, ids.")


class LimitsSection(Section):
    """How hard to press."""

    in_flight: Count = Field(8, description="The most jobs at the service at once.")
    submits_per_second: Rate = Field(5.0, description="The most submissions a second.")
    queries_per_second: Rate = Field(10.0, description="The most queries a second.")
    downloads: Count = Field(8, description="The most downloads at once.")
    task_timeout: Duration = Field(1800.0, description="How long to wait for a job before it is parked, such as 30m.")
    max_image_bytes: Size = Field(64 * 2**20, description="The largest image to download, such as 64MiB.")


class RunSection(Section):
    """When a run stops by itself."""

    budget: Money | None = Field(None, description="US dollars that this ledger may spend in all.")
    stop_after: Duration | None = Field(None, description="Stop submitting after this time, such as 6h.")
    max_failures: Count = Field(50, description="Stop after so many failed tasks in a row.")
    in_doubt: Literal["hold", "resubmit"] = Field(
        "hold", description="What to do with a task whose submission got no readable answer: hold, or resubmit once."
    )
    max_in_doubt: Count = Field(3, description="Stop after so many submissions without a readable answer.")


class Price(Section):
    """The price of an image whose request has these values."""

    usd: Money = Field(description="US dollars an image.")
    model: Optional = Field(None, description="The request's model.")
    size: Optional = Field(None, description="The request's size.")
    quality: Optional = Field(None, description="The request's quality.")
    input_fidelity: Optional = Field(None, description="The request's input_fidelity.")
    background: Optional = Field(None, description="The request's background.")
    output_format: Optional = Field(None, description="The request's output_format.")
    output_compression: int | None = Field(None, description="The request's output_compression.")
    response_format: Optional = Field(None, description="The request's response_format.")
    logo_add: int | None = Field(None, description="The request's logo_add.")


Url = Annotated[str, PlainValidator(_ping), WithJsonSchema({"type": "string", "pattern": "^https?://"})]


class Notify(Section):
    """Whom to tell."""

    ping: Annotated[str, PlainValidator(_ping), WithJsonSchema({"type": "string", "pattern": "^https?://"})] | None = (
        Field(
            None, description="A URL called at the start (/start) and at the end (/EXITCODE), as Healthchecks has it."
        )
    )


class ApiSection(Section):
    """Which service."""

    base_url: Annotated[str, PlainValidator(_base_url), WithJsonSchema({"type": "string", "pattern": "^https?://"})] = (
        Field(DEFAULT_BASE_URL, description="The service's address; https, but for this machine.")
    )
    key_env: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] = Field(
        DEFAULT_KEY_ENV, description="The environment variable with the key; the key itself is never in a manifest."
    )


class ManifestModel(Section):
    """A batch of images for `rsbatch run`."""

    version: Literal[1] = Field(description="The version of this format: 1.")
    name: Annotated[str, PlainValidator(_name), WithJsonSchema({"type": "string"})] = Field(
        "", description="The batch's name, for the output folder and the ledger; default the file's name."
    )
    vars: dict[str, Any] | None = Field(None, description="Constants for templates; --var wins.")
    defaults: RequestFields | None = Field(None, description="Request fields for every task.")
    tasks: Annotated[list[TaskEntry], Field(min_length=1)] = Field(description="What to make.")
    output: Output | None = Field(None, description="Where images go.")
    limits: LimitsSection | None = Field(None, description="How hard to press.")
    run: RunSection | None = Field(None, description="When a run stops by itself.")
    prices: list[Price] | None = Field(None, description="US dollars an image; the first entry that fits counts.")
    notify: Notify | None = Field(None, description="Whom to tell.")
    api: ApiSection | None = Field(None, description="Which service.")


def json_schema() -> dict[str, Any]:
    """Make the manifest's JSON Schema (draft 2020-12), for editors."""
    schema = ManifestModel.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    for part in (schema, *schema["$defs"].values()):
        part["title"] = "rsbatch manifest"  # what editors show above a key's description; not our classes' names
        for key in part["properties"].values():
            key.pop("title", None)
    return schema
