"""A corpus of schemas that strangers could send: each hostile in one way, with values whose judgment is plain.

`good` must be found faultless and `bad` must be found faulty: a constraint that cannot be enforced abstains, and every
other constraint of the same schema still holds. Shared by the tests and by `benchmarks/schema.py`.
"""

from __future__ import annotations

from collections.abc import Callable  # noqa: TC003 - a NamedTuple reads its annotations
from typing import Any, NamedTuple

NONE = object()


class Case(NamedTuple):
    """One hostile schema. `unchecked` says whether something must be reported when it is compiled."""

    group: str
    name: str
    schema: Callable[[], Any]
    good: Any = NONE
    bad: Any = NONE
    unchecked: bool | None = None


CASES: list[Case] = []


def add(
    group: str, name: str, schema: Any, good: Any = NONE, bad: Any = NONE, *, unchecked: bool | None = None
) -> None:
    """Add a case; a callable schema is built when it is used."""
    CASES.append(Case(group, name, schema if callable(schema) else lambda: schema, good, bad, unchecked))


def beside(sub: Any) -> dict[str, Any]:
    """An object schema with one hostile property `x` and one ordinary one."""
    return {"type": "object", "properties": {"x": sub, "n": {"type": "integer"}}, "required": ["n"]}


def odd(group: str, name: str, sub: Any) -> None:
    """Add a subschema that cannot be enforced next to one that can."""
    add(group, name, beside(sub), OK, BAD, unchecked=True)


OK, BAD = {"x": "v", "n": 1}, {"x": "v", "n": "one"}

# ---- references that lead outside, to themselves or nowhere
for remote in (
    "http://example.com/schema.json", "https://example.com/a#/b", "http://127.0.0.1:9/redirect", "file:///etc/passwd",
    "file:///dev/zero", "ftp://example.com/x", "//example.com/x", "/etc/passwd", "other.json", "../../up.json#/x",
    "data:application/json,{}", "urn:uuid:0a1b", "http://[::1", "http://[::1#x", "jar:file:/x!/y", "\\\\server\\share", "HTTP://EXAMPLE.COM",
    "http://example.com:99999999/x", "#/$defs/missing", "#nowhere", "#/properties/n/type", "#/required/0", "%ZZ", "",
):  # fmt: skip
    # An empty reference is the whole schema, which `x` then has to satisfy.
    add("ref", f"remote {remote}", beside({"$ref": remote}), OK if remote else {"n": 1}, BAD, unchecked=bool(remote))
for keyword in ("$ref", "$dynamicRef", "$recursiveRef"):
    for value in (5, None, [], {}, True):
        odd("ref", f"{keyword} is {value!r}", {keyword: value})
add("ref", "$schema is remote", {"$schema": "http://example.com/meta", **beside({})}, OK, BAD)
add("ref", "$schema is no text", {"$schema": {"a": 1}, **beside({})}, OK, BAD)
add("ref", "$vocabulary", {"$vocabulary": {"http://example.com/v": True}, **beside({})}, OK, BAD)
add("ref", "$id is remote", {"$id": "http://example.com/root.json", **beside({"$ref": "child.json"})}, OK, BAD, unchecked=True)  # fmt: skip
add("ref", "$id is broken", {"$id": "http://[", **beside({})}, OK, BAD)
add("ref", "$id is broken below", {"$id": "http://e.com/a", **beside({"$id": "http://["})}, OK, BAD)
add("ref", "a broken reference", {"$id": "http://e.com/a", **beside({"$ref": "http://["})}, OK, BAD, unchecked=True)
add("ref", "$id is a number", {"$id": 7, **beside({})}, OK, BAD)
add(
    "ref", "$id moves the base",
    {"$id": "http://example.com/root.json", "$defs": {"a": {"$id": "a.json", "type": "string"}}, **beside({"$ref": "a.json"})},
    OK, {"x": 1, "n": 1}, unchecked=False,
)  # fmt: skip
add(
    "ref", "an embedded resource is its own root",
    {"$defs": {"a": {"$id": "http://e.com/a", "$defs": {"t": {"type": "string"}}, "$ref": "#/$defs/t"}}, **beside({"$ref": "http://e.com/a"})},
    OK, {"x": 1, "n": 1}, unchecked=False,
)  # fmt: skip
add("ref", "an anchor", {"$defs": {"a": {"$anchor": "t", "type": "string"}}, **beside({"$ref": "#t"})}, OK, {"x": 1, "n": 1})  # fmt: skip
add("ref", "an anchor of Draft 7", {"definitions": {"a": {"$id": "#t", "type": "string"}}, **beside({"$ref": "#t"})}, OK, {"x": 1, "n": 1})  # fmt: skip
add("ref", "escapes ~0 ~1", {"$defs": {"a/b~c": {"type": "string"}}, **beside({"$ref": "#/$defs/a~1b~0c"})}, OK, {"x": 1, "n": 1})  # fmt: skip
add("ref", "escapes %25", {"$defs": {"a%b c": {"type": "string"}}, **beside({"$ref": "#/$defs/a%25b%20c"})}, OK, {"x": 1, "n": 1})  # fmt: skip
add("ref", "into a list", {"allOf": [{"$ref": "#/$defs/l/1"}], "$defs": {"l": [{}, beside({})]}}, OK, BAD)
add("ref", "itself", {"$ref": "#"}, {"a": 1}, unchecked=True)
add("ref", "itself beside a rule", {"$ref": "#", "type": "object", "required": ["n"]}, OK, {}, unchecked=True)
add("ref", "a pair", {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}, OK, unchecked=True)  # fmt: skip
add("ref", "a ring through allOf", {"allOf": [{"anyOf": [{"$ref": "#"}, {"not": {"$ref": "#"}}]}], **beside({})}, OK, BAD, unchecked=True)  # fmt: skip
add("ref", "a dynamic ring", {"$dynamicAnchor": "a", "$dynamicRef": "#a", **beside({})}, OK, BAD, unchecked=True)
add(
    "ref", "a dynamic reference with two targets",
    {"$defs": {"a": {"$dynamicAnchor": "t", "type": "string"}, "b": {"$dynamicAnchor": "t", "type": "null"}}, **beside({"$dynamicRef": "#t"})},
    OK, BAD, unchecked=True,
)  # fmt: skip
add(
    "ref",
    "a tree",
    {"type": "object", "properties": {"kid": {"$ref": "#"}, "n": {"type": "integer"}}},
    {"kid": {"kid": {"n": 1}}},
    {"kid": {"kid": {"n": "1"}}},
)
add("ref", "a chain of 1,500", lambda: {"$ref": "#/$defs/d0", "$defs": {**{f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(1500)}, "d1500": {"type": "object"}}}, {})  # fmt: skip
add("ref", "names that look like keywords", {"type": "object", "properties": {"$ref": {"type": "string"}, "$schema": {"type": "string"}, "$id": {"type": "integer"}}}, {"$ref": "#/x", "$schema": "s", "$id": 1}, {"$ref": 1}, unchecked=False)  # fmt: skip
add("ref", "a reference inside enum and const is data", beside({"enum": [{"$ref": "http://example.com"}, "v"]}), OK, BAD, unchecked=False)  # fmt: skip
add("ref", "$defs is a list", {"$defs": [], **beside({"$ref": "#/$defs/0"})}, OK, BAD, unchecked=True)


# ---- schemas that multiply
def bomb(keyword: str, levels: int) -> dict[str, Any]:
    """Each level refers twice to the next: two to the power of `levels` paths."""
    defs: dict[str, Any] = {f"d{i}": {keyword: [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(levels)}
    return {"$defs": {**defs, f"d{levels}": {"type": "object"}}, "$ref": "#/$defs/d0"}


def nested(keyword: str, levels: int) -> Any:
    """Branches inside of branches, each tried in full before it fails."""
    schema: Any = {"type": "object"}
    for _ in range(levels):
        schema = {keyword: [schema, {"minLength": 1, **schema}]}
    return schema


for keyword in ("allOf", "anyOf", "oneOf"):
    add("growth", f"reference bomb by {keyword}", lambda k=keyword: bomb(k, 30), {} if keyword != "oneOf" else NONE)
    add(
        "growth",
        f"{keyword} in {keyword}, 12 deep",
        lambda k=keyword: nested(k, 12),
        {} if keyword != "oneOf" else NONE,
    )
add("growth", "two recursive references per level", {"type": "object", "additionalProperties": {"allOf": [{"$ref": "#"}, {"$ref": "#"}]}}, {"a": {"a": {"a": {}}}}, {"a": 1})  # fmt: skip
add("growth", "two recursive references, 40 levels", {"additionalProperties": {"anyOf": [{"allOf": [{"$ref": "#"}, {"$ref": "#"}]}, {"$ref": "#"}]}}, lambda: chain(40))  # fmt: skip
add("growth", "not in not, 50 deep", lambda: wrap("not", 50, {"type": "string"}), "v", 1)
add("growth", "if in if", lambda: wrap("if", 50, {"type": "object"}), {})
add("growth", "dependentSchemas to itself", {"dependentSchemas": {"x": {"$ref": "#"}}, **beside({})}, OK, BAD, unchecked=True)  # fmt: skip
add("growth", "unevaluatedProperties through recursion", {"allOf": [{"$ref": "#/$defs/a"}], "unevaluatedProperties": False, "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}, {"properties": {"n": {}}}]}}}, {"n": 1}, unchecked=True)  # fmt: skip
add(
    "growth",
    "unevaluated beside an unknown condition",
    {
        "if": {"required": ["n"], "properties": {"n": {"pattern": r"(a)\1"}}},
        "then": {"properties": {"n": {}}},
        "else": {"properties": {"x": {}}},
        "unevaluatedProperties": False,
    },
    OK,
    {"n": 1, "z": 2},
    unchecked=True,
)
add(  # what the unreadable pattern would have evaluated is unknown, so nothing is left that surely was not
    "growth",
    "unevaluated beside an unreadable pattern",
    {"patternProperties": {r"(a)\1": {}}, "unevaluatedProperties": False},
    {"aa": 1},
    unchecked=True,
)
add("growth", "contains in contains", lambda: wrap("contains", 40, {"type": "string"}), {})


def chain(levels: int) -> Any:
    """An object nested `levels` deep."""
    value: Any = {}
    for _ in range(levels):
        value = {"a": value}
    return value


def wrap(keyword: str, levels: int, schema: Any) -> Any:
    """`schema` inside `levels` of a keyword."""
    for _ in range(levels):
        schema = {keyword: schema}
    return schema


# ---- patterns
for pattern, good, bad in (
    (r"^(a+)+$", "a" * 40, "a" * 40 + "!"),
    (r"^(a|aa)+$", "a" * 60, "a" * 60 + "!"),
    (r"^(a|a)*$", "a" * 60, "a" * 60 + "!"),
    (r"^(a*)*$", "a" * 60, "a" * 60 + "!"),
    (r"^(a*)*b", "a" * 60 + "b", "a" * 60),
    (r"(x+x+)+y", "x" * 40 + "y", "x" * 40),
    (r"^(([a-z])+.)+[A-Z]([a-z])+$", "ab.cdEf", "a" * 50),
    (r"^([a-zA-Z0-9])(([\-.]|[_]+)?([a-zA-Z0-9]+))*(@){1}[a-z0-9]+[.]{1}(([a-z]{2,3})|([a-z]{2,3}[.]{1}[a-z]{2,3}))$", "ann@example.org", "a" * 60 + "!"),
    (r"^(\w+\s?)*$", "two words", "a" * 60 + "!"),
    (r"(.*a){20}", "a" * 30, "b" * 200),
    (r"^(.*?,){30}P", "," * 30 + "P", "," * 60),
    (r"(a?){40}a{40}$", "a" * 40, "a" * 39),
    (r"^(a?b?c?d?e?){20}f$", "abf", "abcde" * 20),
    (r"\s+$", "a ", " " * 3000 + "a"),
    (r"^\d+\d+\d+\d+\d+\d+$", "123456", "1" * 400 + "x"),
    (r"^((a{1,30}){1,30})$", "a" * 30, "b"),
    (r"(a|b|ab)*c", "ababc", "ab" * 500),
    (r"^(?:(?:a|b)|(?:b|a))+$", "abab", "ab" * 40 + "!"),
    (r"^(0|[1-9]\d*)(\.\d+)?$", "10.5", "01"),
    (r"^[^@]+@[^@]+\.[^@]+$", "a@b.c", "@" * 2000),
    (r"^(\p{L}+)*$", "Привет", "Привет!" * 9),
    (r"^\p{Lu}", "Éa", "éa"),
    (r"[\u4e00-\u9fff]", "東京", "Tokyo"),
    (r"^\d{4}-\d{2}-\d{2}$", "2024-01-31", "٢٠٢٤-٠١-٣١"),
    (r"^a.c$", "abc", "a\nc"),
    (r"^ab$", "ab", "ab\n"),
    (r"^\ud83d\ude00$", "😀", "x"),
    (r"^[\ud83d]$", "\ud83d", "x"),
    (r"^[\w.+-]+$", "a.b+c", "a b"),
    (r"^(?=.*[a-z])(?=.*\d).{4,}$", "abc1", "abcd"),
    (r"^(?!.*secret).*$", "open", "a secret"),
    (r"\bcat\b", "a cat", "concat"),
    (r"^.{1,5000}$", "abc", ""),
    (r"^[\s\S]{3,2048}$", "a\nc", "ab"),
    (r"^\w{0}$", "", "a"),
    ("(" * 500 + "a" + ")" * 500, "a", "b"),  # RE2 bears what the engine before it did not
    (r"^[]$", NONE, "a"),
    (r"^(?!x)[^]$", "\n", "x"),
    (r"^(?!x)(?:[]|b)$", "b", "x"),
    (r"^[\W]$", "-", "a"),
    (r"^[a-\d]$", "-", "b"),
    (r"^[\-\b]$", "\b", "b"),
    (r"^\t\v$", "\t\v", "tv"),
    (r"^\p{Any}\P{ASCII}$", "aé", "aa"),
    (r"^[\P{L}]$", "1", "a"),
    (r"^[\P{Any}1]$", "1", "a"),
    (r"^(?:){5}a(?:^b)*$", "a", "ab"),
    (r"^(?!(?:a|b){2,}c).*$", "ac", "abc"),
    (r"^(?!(?:a|b)*c)[^c]*$", "ab", "abc"),
    (r"^[^]$", "\n", "ab"),
    (r"^\cA\x41\0$", "\x01A\0", "A"),
):  # fmt: skip
    add("pattern", pattern, {"type": "string", "pattern": pattern}, good, bad)
for pattern in (
    r"^*", r"(?=a)+", r"(?!x)\p{L}", r"(a)\1", r"(?<n>a)\k<n>", r"(?i)abc", r"(?P=x)", r"a++", r"(?>a)", r"(", r")", r"[", r"[z-a]", r"a{3,1}", r"*a", r"\Aa\Z",
    r"a(?=b)|c", r"^(?!a)b|c", r"(?<!a)b", r"(a{1,2}){2,1001}",
    r"a{1,999999999}", r"((((a{1,90}){1,90}){1,90}){1,90})\b", r"(?<=a+)b", r"\p{Script=Greek}", r"\p{Nope}",
    r"\u{110000}", "a" * 20_000, r"(?=(a+)+$)", r"\x", "(?#c)", r"(?(1)a|b)", "\\", r"[[:alpha:]]{2}{3}",
):  # fmt: skip
    odd("pattern", f"not enforceable {pattern[:40]}", {"type": "string", "pattern": pattern})
odd("pattern", "pattern is a number", {"pattern": 5})
odd("pattern", "inside of not", {"not": {"pattern": r"(v)\1?"}})
odd("pattern", "inside of oneOf", {"oneOf": [{"pattern": r"(v)\1?"}, {"type": "string"}]})
odd("pattern", "inside of if", {"if": {"pattern": r"(w)\1?"}, "then": {"type": "null"}})
add("pattern", "inside of contains", beside({"contains": {"pattern": r"(w)\1?"}, "maxContains": 0, "minContains": 0}), {"x": ["v"], "n": 1}, BAD, unchecked=True)  # fmt: skip
add("pattern", "patternProperties explode", {"patternProperties": {r"^(a+)+$": {"type": "integer"}}}, {"a" * 40 + "!": "v"}, {"a" * 40: "v"})  # fmt: skip
add(
    "pattern",
    "patternProperties unreadable, closed",
    {"patternProperties": {r"(a)\1": {}}, "additionalProperties": False},
    {"aa": 1},
    unchecked=True,
)
add("pattern", "propertyNames explode", {"propertyNames": {"pattern": r"^(a+)+$"}}, {"aaaa": 1}, {"a" * 40 + "!": 1})

# ---- numbers
for name, sub, good, bad in (
    ("multipleOf 0", {"multipleOf": 0}, 3, NONE),
    ("multipleOf 0.0", {"multipleOf": 0.0}, 3, NONE),
    ("multipleOf negative", {"multipleOf": -2}, 3, NONE),
    ("multipleOf text", {"multipleOf": "2"}, 3, NONE),
    ("multipleOf NaN", {"multipleOf": float("nan")}, 3, NONE),
    ("multipleOf true", {"multipleOf": True}, 3, NONE),
    ("multipleOf 1e-300", {"multipleOf": 1e-300}, 1e300, NONE),
    ("multipleOf 1e300", {"multipleOf": 1e300}, 2e300, 1e-300),
    ("multipleOf 5e-324", {"multipleOf": 5e-324}, 0, NONE),
    ("multipleOf 0.01", {"multipleOf": 0.01}, 19.99, 19.995),
    ("multipleOf 0.1", {"multipleOf": 0.1}, 0.3, 0.35),
    ("multipleOf 3", {"multipleOf": 3}, 1e22 * 0 + 9.0, 1e22),
    ("minimum NaN", {"minimum": float("nan")}, 3, NONE),
    ("maximum infinite", {"maximum": float("inf")}, 3, NONE),
    ("minimum text", {"minimum": "5"}, 3, NONE),
    ("minimum null", {"minimum": None}, 3, NONE),
    ("exclusiveMinimum of Draft 4", {"minimum": 3, "exclusiveMinimum": True}, 4, 3),
    ("exclusiveMaximum of Draft 4", {"maximum": 3, "exclusiveMaximum": True}, 2, 3),
    ("minimum of 10,000 digits", lambda: {"minimum": 10**9_000}, 3, NONE),
    ("maximum 1e308", {"maximum": 1e308}, 10**300, 10**310),
):  # fmt: skip
    add("number", name, sub, good, bad)

# ---- sizes
HUGE = 10**30
for name, sub, good, bad in (
    ("minLength huge", {"minLength": HUGE}, NONE, "v"),
    ("maxLength huge", {"maxLength": HUGE}, "v", NONE),
    ("maxLength -1", {"maxLength": -1}, "v", NONE),
    ("minLength text", {"minLength": "3"}, "v", NONE),
    ("minLength 1.5", {"minLength": 1.5}, "v", NONE),
    ("minLength 2.0", {"minLength": 2.0}, "vv", "v"),
    ("minLength true", {"minLength": True}, "", NONE),
    ("maxLength in code points", {"maxLength": 1}, "😀", "ab"),
    ("minItems huge", {"minItems": HUGE}, NONE, [1]),
    ("maxItems null", {"maxItems": None}, [1], NONE),
    ("minProperties huge", {"minProperties": HUGE}, NONE, {}),
    ("minContains huge", {"contains": {}, "minContains": HUGE}, NONE, [1]),
    ("minContains text", {"contains": {"type": "string"}, "minContains": "x"}, ["v"], NONE),
    ("maxContains text", {"contains": {}, "maxContains": "x"}, [1], []),
    ("uniqueItems text", {"uniqueItems": "yes"}, [1, 1], NONE),
    ("uniqueItems keeps true and 1 apart", {"uniqueItems": True}, [1, True, 0, False], [1, 1.0]),
    ("uniqueItems nested", {"uniqueItems": True}, [{"a": 1, "b": 2}, {"a": 1}], [{"a": 1, "b": [2]}, {"b": [2.0], "a": 1.0}]),
    ("uniqueItems of 20,000", {"uniqueItems": True}, lambda: list(range(20_000)), lambda: [*range(20_000), 3]),
    ("uniqueItems of 4,000 lists", {"uniqueItems": True}, lambda: [[i] for i in range(4_000)], lambda: [[i % 3_999] for i in range(4_000)]),
    ("enum of 10,000", lambda: {"enum": [f"e{i}" for i in range(10_000)]}, "e9999", "f"),
    ("enum of a value nested 100 deep", lambda: {"enum": [deep_list(100)]}, "v", NONE),
    ("const of 10,000 digits", lambda: {"const": [10**9_999]}, "v", NONE),
    ("enum of lists", lambda: {"enum": [[i] for i in range(5_000)]}, [4_999.0], [-1]),
):  # fmt: skip
    add("size", name, sub, good, bad)


# ---- schemas that are too large, too deep, cyclic or no schema at all
def cyclic() -> Any:
    """A schema that holds itself."""
    schema: dict[str, Any] = {"type": "object"}
    schema["properties"] = {"x": schema}
    return schema


def wide_cycle() -> Any:
    """A schema that holds itself twice."""
    schema: dict[str, Any] = {"allOf": []}
    schema["allOf"] += [schema, schema]
    return schema


def shared() -> Any:
    """Sixty dicts that unfold into two to the power of sixty."""
    schema: Any = {"type": "string"}
    for _ in range(60):
        schema = {"anyOf": [schema, schema]}
    return schema


add("bulk", "nested 900 deep", lambda: wrap("items", 900, {}), [1], unchecked=True)
add("bulk", "nested 60 deep", lambda: wrap("items", 60, {"type": "string"}), [], unchecked=False)
add("bulk", "properties nested 100,000 deep", lambda: wrap("not", 100_000, {}), {}, unchecked=True)
add("bulk", "300 kB of description", lambda: {"description": "d" * 300_000, **beside({})}, OK, unchecked=True)
add("bulk", "3,000 properties", lambda: {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}, **{f"p{i}": {"type": "string"} for i in range(3_000)}}}, OK, BAD, unchecked=True)  # fmt: skip
add("bulk", "a cyclic dict", cyclic, OK, unchecked=True)
add("bulk", "a cyclic list", wide_cycle, OK, unchecked=True)
add("bulk", "one dict shared 2**60 times", shared, OK, unchecked=True)
for garbage in (None, 5, "string", [], [{"type": "object"}], 1.5, float("nan"), b"{}", object(), {1, 2}):
    add(
        "garbage", f"the schema is {type(garbage).__name__} {str(garbage)[:9]}", lambda g=garbage: g, OK, unchecked=True
    )

# ---- keywords with values that no draft allows
for name, sub in (
    ("type 5", {"type": 5}), ("type null", {"type": None}), ("type []", {"type": []}), ("type unknown", {"type": "teapot"}),
    ("type {}", {"type": {}}), ("type list of unknown", {"type": ["string", "teapot"]}), ("type of Draft 3", {"type": [{"type": "string"}]}),
    ("enum text", {"enum": "v"}), ("enum {}", {"enum": {}}), ("enum []", {"enum": []}), ("enum of another type", {"type": "string", "enum": [1, 2]}),
    ("properties []", {"properties": []}), ("properties text", {"properties": "x"}), ("properties null", {"properties": {"a": None}}),
    ("properties number", {"properties": {"a": 1}}), ("required text", {"required": "x"}), ("required true", {"required": True}),
    ("required {}", {"required": {}}), ("required [1]", {"required": [1, None]}), ("additionalProperties text", {"additionalProperties": "no"}),
    ("patternProperties []", {"patternProperties": []}), ("propertyNames 1", {"propertyNames": 1}), ("items 5", {"items": 5}),
    ("items text", {"items": "string"}), ("prefixItems {}", {"prefixItems": {}}), ("contains []", {"contains": []}),
    ("allOf {}", {"allOf": {}}), ("allOf []", {"allOf": []}), ("anyOf text", {"anyOf": "x"}), ("anyOf []", {"anyOf": []}),
    ("anyOf [1]", {"anyOf": [1]}), ("oneOf null", {"oneOf": None}), ("oneOf [null]", {"oneOf": [None]}), ("not text", {"not": "x"}),
    ("not unknown", {"not": {"type": "teapot"}}), ("if 1", {"if": 1, "then": False}), ("dependentRequired []", {"dependentRequired": []}),
    ("dependentRequired text", {"dependentRequired": {"a": "b"}}), ("dependentSchemas []", {"dependentSchemas": []}),
    ("dependencies 1", {"dependencies": {"a": 1}}), ("unevaluatedProperties 1", {"unevaluatedProperties": 1}),
    ("unevaluatedItems text", {"unevaluatedItems": "x"}),
):  # fmt: skip
    odd("garbage", name, sub)
add(
    "garbage",
    "a key that is no text",
    {"type": "object", 5: {}, "properties": {1: {"type": "null"}, "n": {"type": "integer"}}},
    OK,
    BAD,
    unchecked=True,
)
odd("garbage", "a value that is no JSON", {"type": object()})

# ---- dialects
for name, sub, good, bad in (
    ("dict", {"type": "dict"}, {}, []), ("float", {"type": "float"}, 1.5, "1.5"), ("int", {"type": "int"}, 2, 2.5), ("str", {"type": "str"}, "v", 1),
    ("list", {"type": "list"}, [], {}), ("tuple", {"type": "tuple", "items": {"type": "int"}}, [1], ["1"]), ("any", {"type": "any"}, None, NONE),
    ("bool", {"type": "bool"}, True, 1), ("STRING", {"type": "STRING"}, "v", 1), ("OBJECT", {"type": "OBJECT", "properties": {"a": {"type": "INTEGER"}}}, {"a": 1}, {"a": "1"}),
    ("None", {"type": ["str", "None"]}, None, 1), ("nullable", {"type": "string", "nullable": True, "minLength": 1}, None, ""),
    ("nullable enum", {"type": "string", "nullable": True, "enum": ["a"]}, None, "b"), ("nullable text", {"type": "string", "nullable": "yes"}, "v", None),
    ("items of Draft 7", {"items": [{"type": "string"}], "additionalItems": False}, ["v"], ["v", 1]),
    ("dependencies of Draft 7", {"dependencies": {"a": ["b"], "c": {"required": ["d"]}}}, {"a": 1, "b": 1}, {"c": 1}),
    ("integer-valued float", {"type": "integer"}, 5.0, 5.5), ("a boolean is no number", {"type": "number"}, 1, True),
    ("Unicode names", {"required": ["città", "市"], "properties": {"市": {"type": "string"}}}, {"città": 1, "市": "x"}, {"città": 1, "市": 2}),
    ("an empty name", {"properties": {"": {"type": "string"}}}, {"": "v"}, {"": 1}), ("a name of 100 kB", lambda: {"required": ["k" * 100_000]}, NONE, {}),
    ("a lone surrogate as a name", {"properties": {"\ud800": {"type": "string"}}}, {"\ud800": "v"}, {"\ud800": 1}),
    ("the schema true", True, {}, NONE), ("the schema false", False, NONE, {}), ("format is an annotation", {"format": "date"}, "never", NONE),
):  # fmt: skip
    add("dialect", name, lambda s=sub: s() if callable(s) else s, good, bad)


# ---- values
def deep_list(levels: int) -> Any:
    """A list nested `levels` deep."""
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


TREE = {"anyOf": [{"type": "array", "items": {"$ref": "#"}}, {"type": "integer"}]}
for name, schema, good, bad in (
    ("an integer of 10,000 digits", {"type": "integer", "minimum": 5}, lambda: 10**9_999, lambda: -(10**9_999)),
    ("a huge integer and multipleOf", {"type": "integer", "multipleOf": 3, "enum": [3]}, NONE, NONE),
    ("NaN", {"type": "number"}, float("nan"), NONE),
    ("NaN is no integer", {"type": "integer"}, NONE, float("nan")),
    ("infinite is no integer", {"type": "integer"}, NONE, float("inf")),
    ("infinite over a maximum", {"maximum": 5}, 1, float("inf")),
    ("NaN and multipleOf", {"multipleOf": 5}, 5, float("nan")),
    ("a lone surrogate", {"type": "string", "pattern": "^.$", "maxLength": 1}, "\ud800", "\ud800\ud800"),
    ("NUL", {"type": "string", "pattern": "^[a-z]+$"}, "a", "a\0"),
    ("nested 900 deep", TREE, lambda: deep_list(3), NONE),
    ("5 MB of text", {"type": "string", "maxLength": 10}, "v", lambda: "a" * 5_000_000),
    ("5 MB of text against a pattern", {"type": "string", "maxLength": 10, "pattern": "^(a+)+$"}, "a", NONE),
    ("1,000,000 items", {"type": "array", "items": {"type": "integer"}, "maxItems": 5}, [1], NONE),
    ("100,000 wrong items", {"type": "array", "items": {"type": "integer"}}, [1], lambda: ["x"] * 100_000),
    ("100,000 extra names", {"type": "object", "additionalProperties": False}, {}, lambda: {f"k{i}": 1 for i in range(100_000)}),
    ("a Python tuple", {"type": "array"}, [1], NONE),
    ("a Python object", {"type": "string"}, "v", object()),
):  # fmt: skip
    add("value", name, schema, good, bad)

HOSTILE_VALUES: list[tuple[str, Callable[[], Any]]] = [
    ("a huge integer", lambda: 10**9_999),
    ("NaN", lambda: float("nan")),
    ("infinite", lambda: float("-inf")),
    ("a lone surrogate", lambda: "\udfff"),
    ("NUL", lambda: "\0"),
    ("nested 900 deep", lambda: deep_list(900)),
    ("objects nested 900 deep", lambda: chain(900)),
    ("5 MB of text", lambda: "a" * 5_000_000),
    ("500,000 items", lambda: [0] * 500_000),
    ("100,000 names", lambda: {f"k{i}": "v" for i in range(100_000)}),
    ("100,000 equal lists", lambda: [[0]] * 100_000),
    ("bytes", lambda: b"x"),
    ("a set", lambda: {1}),
]
"""Values that every schema of the corpus must survive, whatever it then says about them."""


def made(value: Any) -> Any:
    """A value of a case, built when it is a callable."""
    return value() if callable(value) else value
