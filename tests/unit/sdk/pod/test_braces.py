"""Text with braces comes through Argo and KFP as it was."""

from __future__ import annotations

import json
import re

from hypothesis import given
from hypothesis import strategies as st

from crucible.sdk.pod.braces import quoted, unquoted

TEXT = st.text(alphabet="{}\u2060a$", max_size=12)
JSON = st.recursive(
    TEXT | st.integers() | st.booleans() | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@given(JSON)
def test_it_comes_back_and_has_nothing_to_replace(value: object) -> None:
    travelling = quoted(value)
    assert "{{" not in json.dumps(travelling, ensure_ascii=False)
    assert unquoted(travelling) == value


def test_a_chat_template_is_not_touched_by_argo() -> None:
    template = "{% for m in messages %}{{ m.role }}: {{m.content}}{{{x}}}{% endfor %}"
    text = json.dumps(quoted({"template": template}))
    assert re.sub(r"\{\{.*?\}\}", "REPLACED", text) == text
    assert unquoted(json.loads(text)) == {"template": template}
