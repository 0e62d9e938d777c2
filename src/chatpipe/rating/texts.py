"""The texts of the rating page."""

from __future__ import annotations

from chatpipe.utils.texts import Language, in_language, translate

# As the page's template and script name them; the Chinese ones are in `utils/chinese_rating.py`.
ENGLISH = {
    "title": "Which answer is better?",
    "name": "Your name",
    "name_note": "It stands beside your ratings in the report.",
    "key": "Key",
    "key_note": "Whoever started this page has it.",
    "start": "Start",
    "hidden": "You do not see which models wrote the answers; their order is drawn by chance.",
    "system": "Text before the conversation",
    "user": "User",
    "assistant": "Model",
    "prompt": "Prompt",
    "input": "Input",
    "answer_a": "Answer A",
    "answer_b": "Answer B",
    "empty": "(empty)",
    "a": "A is better",
    "b": "B is better",
    "tie": "Equally good",
    "both_bad": "Both are bad",
    "verdict": "Verdict",
    "correct": "Correct? 1 (wrong) to 5 (right); optional",
    "remark": "Remark (optional)",
    "undo": "Undo the last rating",
    "keys": "Keys: 1, 2, 3, 4 for the verdicts, U for undo.",
    "progress": "{done} of {total} rated",
    "finished": "All {total} pairs are rated. Thank you; you can close this page.",
    "stale": "This pair was rated elsewhere, or the server was restarted; here is the next.",
    "offline": "The server does not answer. Nothing was stored; try again.",
    "refused": "The key is not the right one.",
}


def page_texts(language: Language) -> dict[str, str]:
    """Return the texts in that language."""
    with in_language(language):
        return {name: translate(text) for name, text in ENGLISH.items()}
