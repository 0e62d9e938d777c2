"""Why a conversation cannot be trained on, and what is left out of one that can."""

from __future__ import annotations

# Reasons.
NO_TURN = "no turn"
NO_ASSISTANT = "no assistant turn"
NO_USER = "no user turn"
ASSISTANT_FIRST = "an assistant turn first, and a user turn without an answer"
TOOL_BETWEEN = "a tool turn between the user turn and the answer"
OTHER_BETWEEN = "a turn of another role between the user turn and the answer"
TOOL_CALL = "the answer is a tool call"
WEIGHT_0 = "the answer has weight 0"
MEDIA = "an image, sound or video in the first exchange"
# Of whole conversations.
ANY_TOOL = "a tool turn or a tool call"
ANY_MEDIA = "an image, sound or video"
ANY_OTHER = "a turn of another role"
ALL_WEIGHT_0 = "every reply has weight 0"
FORMER_ANY_WEIGHT_0 = "a reply has weight 0"  # of rows that were normalized by earlier versions
LATER_SYSTEM = "a system turn after the first user turn"
REPEATED_ROLE = "two turns of one role in a row"
EMPTY_TURN = "empty turn"
# Rows that have nothing to train on, whatever the split.
UNUSABLE = frozenset(
    (
        *(NO_TURN, NO_ASSISTANT, NO_USER, ASSISTANT_FIRST, TOOL_BETWEEN, OTHER_BETWEEN),
        *(TOOL_CALL, WEIGHT_0, MEDIA),
        *(ANY_TOOL, ANY_MEDIA, ANY_OTHER, LATER_SYSTEM, REPEATED_ROLE, EMPTY_TURN),
        *(ALL_WEIGHT_0, FORMER_ANY_WEIGHT_0),
    )
)

# Flags.
SYSTEM = "system turn left out"
TOOL = "tool turn left out"
NULL = "null turn left out"
EARLIER = "earlier turns left out"
LEADING = "leading assistant turn left out"
TWO_USERS = "first of two user turns in a row left out"
FURTHER = "further turns left out"
LAST_USER = "last user turn, without an answer, left out"
SPLIT_ANSWER = "rest of a split answer left out"
OTHER = "turn of another role left out"
REASONING = "reasoning left out"
WEIGHT = "weight of the answer not used"
UNSCORED = "reply with weight 0 kept as context, not scored"
LAST_UNSCORED = "last reply, with weight 0, left out"
JOINED = "turns of one role in a row joined"
