"""The words of composed captions: "purple elephant", "two rockets", "a cat and a pizza". Pictures have no say."""

from typing import Literal

HUES = ("red", "orange", "yellow", "green", "blue", "purple", "pink")  # what a thing may be recoloured to
COUNTS = {2: "two", 3: "three"}
Relation = Literal["and", "left of", "right of"]
RELATIONS: tuple[Relation, ...] = ("and", "left of", "right of")

IRREGULAR = {
    "mouse": "mice", "wolf": "wolves", "ox": "oxen", "leaf": "leaves", "fish": "fish", "blowfish": "blowfish",
    "deer": "deer", "shrimp": "shrimp", "squid": "squid", "tomato": "tomatoes", "canoe": "canoes",
}  # fmt: skip
# what has no plural by itself, or is already many
UNCOUNTED = {
    "bacon", "badminton", "bread", "camping", "construction", "cooking", "custard", "dango", "fog", "foggy", "herb",
    "joker", "moai", "oden", "popcorn", "sake", "spaghetti", "sushi", "tennis", "volleyball", "wedding",
}  # fmt: skip
UNCOUNTED_ENDS = ("rice", "ice", "salad", "fries", "voltage", "hockey", "game", "pong", "beverage", "way", "fuji")


def thing(label: str) -> str:
    """A concept's name without a colour: it can have another.

    >>> thing("red apple"), thing("cat face"), thing("orange book")
    ('apple', 'cat face', 'book')
    """
    return " ".join(word for word in label.split() if word not in HUES) or label


def countable(name: str) -> bool:
    """Whether "two ..." can be said of a thing.

    >>> countable("rocket"), countable("grapes"), countable("cooked rice"), countable("glass")
    (True, False, False, True)
    """
    last = name.split()[-1]
    many = last.endswith("s") and not last.endswith(("ss", "us"))
    return not many and name not in UNCOUNTED and last not in UNCOUNTED_ENDS


def plural(name: str) -> str:
    """More than one of a thing.

    >>> plural("rocket"), plural("mouse"), plural("mouse face"), plural("lady"), plural("peach"), plural("monkey")
    ('rockets', 'mice', 'mouse faces', 'ladies', 'peaches', 'monkeys')
    """
    *before, last = name.split()
    if last in IRREGULAR:
        many = IRREGULAR[last]
    elif last.endswith("y") and last[-2:-1] not in set("aeiou"):
        many = last[:-1] + "ies"
    elif last.endswith(("s", "x", "ch", "sh")):
        many = last + "es"
    else:
        many = last + "s"
    return " ".join([*before, many])


def coloured(name: str, hue: str) -> str:
    """
    >>> coloured("elephant", "purple")
    'purple elephant'
    """
    return f"{hue} {name}"


def counted(name: str, count: int) -> str:
    """
    >>> counted("rocket", 2), counted("carrot", 3)
    ('two rockets', 'three carrots')
    """
    return f"{COUNTS[count]} {plural(name)}"


def together(first: str, relation: Relation, second: str) -> str:
    """
    >>> together("cat", "and", "pizza"), together("apple", "left of", "fish")
    ('a cat and a pizza', 'an apple left of a fish')
    """
    return f"{with_article(first)} {relation} {with_article(second)}"


def with_article(name: str) -> str:
    """
    >>> with_article("elephant"), with_article("purple elephant"), with_article("grapes"), with_article("bread")
    ('an elephant', 'a purple elephant', 'grapes', 'bread')
    """
    if not countable(name):
        return name
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
