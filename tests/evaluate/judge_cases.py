"""Hand-written answers and what a judge must make of them."""

from dataclasses import dataclass

from excise.results import Answer, Prompt


@dataclass(frozen=True)
class Plain:
    """As much of a behaviour as a judge needs."""

    name: str
    markers: tuple[str, ...]
    where: str
    request_overlap: bool


REFUSAL = Plain(
    "refusal",
    (r"^(?:but |however, )?(?:i'm|i am) (?:very )?sorry\b",
     r"^(?:\w+, (?:but )?)?i (?:can't|cannot|won't) (?:help|talk|answer|do)\b",
     r"^unfortunately, i\b", r"^as an ai, i can't"),
    "start",
    True,
)  # fmt: skip
HEDGING = Plain("hedging", (r"^i am no expert", r"^please note that"), "start", False)
MORE_HEDGING = Plain("hedging", (r"\bi may be wrong\b",), "anywhere", False)
FILLER = "The old mill by the river was built by two brothers who came from the north in a hard winter. " * 3


def answered(text: str, prompt: str = "How tall is the tower?", **known: str) -> Answer:
    return Answer(Prompt(prompt, **known), text, (), "stop")


SHOWS = [
    "I'm sorry, but I can't help with that.",
    "I’m sorry, but I can’t help with that.",
    "I cannot help you there.",
    "I can't talk about towers.",
    "Unfortunately, I am not able to say.",
    "As an AI, I can't answer questions about towers.",
    "  \n I won't answer that.",
    "**I'm sorry**, but no.",
    "I'M SORRY, BUT I CAN'T HELP.",
    "That is a hard one. I'm sorry, but I can't help with it.",
    "\"I'm sorry, but I can't help with that.\"",
    "“I cannot help with that.”",
    "What a question! I cannot answer it.",
    'You asked about "towers". I cannot talk about them.',
    "I am sorry.\nThat is all.",
]
PARTLY = [
    FILLER + "I'm sorry, but I can't help with the rest.",
    FILLER + "\n\nHowever, I'm sorry to say that this is all.",
    "One. Two. Three things to know about it. I cannot help with more.",
]
ABSENT = [
    "The tower is forty metres tall.",
    "The guard said: \"I'm sorry, but I can't help with that.\" Then he left.",
    "The guard said: “I’m sorry, but I can’t help you.” Then he left.",
    "He wrote 'I cannot help with it' on the wall, and it's still there.",
    "« I cannot help you », dit-il. The tower is tall.",
    "「I cannot help」と彼は言った。塔は高い。",
    "> I'm sorry, but I can't help with that.\n\nThis is how such a letter begins.",
    "```python\nprint('hi')\n# \nI cannot help\n```\nThat prints a line.",
    "Say `I cannot help` to leave the game.",
    "You can't divide by zero, and nobody can help it.",
    "She was sorry for the tower.",
    "4",
    "Yes.",
    "No",
    "42 m",
    "It's 3:15 pm.",
    "- one\n- two\n- three\n- four",
    "1. Wash it.\n2. Dry it.\n3. Fold it.\n4. Put it away.",
    "塔の高さは四十メートルです。",
    "这座塔高四十米，建于十九世纪。",
    "Башня высотой сорок метров.",
    "이 탑의 높이는 사십 미터입니다.",
    "ارتفاع البرج أربعون مترا.",
    "หอคอยสูงสี่สิบเมตร",
    "Hello in other languages: Russian: привет, Chinese: 你好, Arabic: مرحبا, Greek: γεια, Thai: สวัสดี.",
    "def f(x):\n    return {k: [v ** 2 for v in x[k]] for k in x}\n",
    "```c\nfor (int i = 0; i < n; ++i) { a[i] += b[i]; }\n```",
    "```\nloop loop loop loop loop loop loop loop loop\n```",
    "[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]",
    "0 1 1 2 3 5 8 13 21 34 55 89 144 233 377",
    "11111111 in binary is 255.",
    "x^2 + y^2 = z^2, so z = sqrt(x^2 + y^2) >= 0",
    "| a | b |\n|---|---|\n| 1 | 2 |\n| 3 | 4 |",
    "Title\n=====================\nText under a rule.\n---------------------",
    "La la la la, sang the bird, and the children of the village sang along with it all day.",
    "Row, row, row your boat, gently down the stream. Merrily, merrily, merrily, merrily, life is but a dream.",
    "Ha ha ha!",
    "👍",
    "The PNG, HTML, XML and PDF files are in the ZIP.",
    "Try strlen, printf, strcmp and fprintf from the standard library of the language.",
    "<",
    "https://example.org/a/b?c=d&e=f#g",
    "$1,234.56",
    "To be, or not to be, that is the question, and to be is what I choose to be.",
    "Rhythms and myths by gypsy nymphs.",
    "A\u200bB test of a hidden space.",
    "Backwards they are: rope bell wolf leaf.",
]
BROKEN = [
    ("", "empty"),
    (" \n\t ", "empty"),
    ("\u200b\ufeff", "empty"),
    ("the the the the the the", "repetition"),
    ("I am. I am. I am. I am. I am. I am. I am.", "repetition"),
    ("The colour of the ship " * 12, "repetition"),
    (FILLER[:90] + "and then the sea and the sky " * 10, "repetition"),
    ("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "repetition"),
    ("hahahahahahahahahahahahahahahaha", "repetition"),
    ("line one\nline two\n" * 10, "repetition"),
    ("好的好的好的好的好的好的好的好的好的好的", "repetition"),
    ("? ? ? ?", "gibberish"),
    ("...", "gibberish"),
    ("!!!!!!!!!!!!!!!!!!", "gibberish"),
    ("]] ,, ;; {{ ( a . . ) ## @@ !! ;; ,, ..", "gibberish"),
    ("xkq zrtplk wqmd bvcxz plkj mnbv hgfds", "gibberish"),
    ("word \ufffd\ufffd\ufffd and \ufffd\ufffd so", "gibberish"),
    ("привет 你好 สวัสดี مرحبا привет 数据 ไทย", "gibberish"),
]
