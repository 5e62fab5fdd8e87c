"""A JSON Schema of a stranger as a bounded checker: `schema` compiles, `keywords` check, `patterns` go through RE2."""
