"""The kinds of things in an image: English name and emoji code point, by category.

Chosen so that every vendor draws the same thing, no two look alike, and (signs aside) no name is
part of another: a word in a question then means one kind. Names take "s" in the plural unless
`_PLURALS` says otherwise.
"""

import zlib
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType

import numpy as np

_BY_CATEGORY = {
    "animal": """
        cat 1f431 dog 1f436 mouse 1f42d rabbit 1f430 fox 1f98a panda 1f43c koala 1f428 tiger 1f42f
        lion 1f981 cow 1f42e pig 1f437 frog 1f438 monkey 1f435 wolf 1f43a horse 1f434 chicken 1f414
        penguin 1f427 bird 1f426 duck 1f986 eagle 1f985 owl 1f989 snail 1f40c butterfly 1f98b
        bee 1f41d ladybug 1f41e spider 1f577 turtle 1f422 snake 1f40d lizard 1f98e octopus 1f419
        squid 1f991 crab 1f980 lobster 1f99e dolphin 1f42c whale 1f433 shark 1f988 fish 1f41f
        crocodile 1f40a zebra 1f993 elephant 1f418 camel 1f42a giraffe 1f992 kangaroo 1f998
        sheep 1f411 goat 1f410 peacock 1f99a parrot 1f99c swan 1f9a2 flamingo 1f9a9 raccoon 1f99d
        sloth 1f9a5 beaver 1f9ab hedgehog 1f994 scorpion 1f982 dinosaur 1f996 squirrel 1f43f
        gorilla 1f98d mosquito 1f99f""",
    "food": """
        apple 1f34e pear 1f350 orange 1f34a lemon 1f34b banana 1f34c watermelon 1f349 cherry 1f352
        strawberry 1f353 peach 1f351 mango 1f96d coconut 1f965 kiwi 1f95d tomato 1f345
        eggplant 1f346 avocado 1f951 broccoli 1f966 cucumber 1f952 corn 1f33d garlic 1f9c4
        onion 1f9c5 potato 1f954 mushroom 1f344 croissant 1f950 bread 1f35e pretzel 1f968
        donut 1f369 cheese 1f9c0 waffle 1f9c7 hamburger 1f354 pizza 1f355 sandwich 1f96a taco 1f32e
        sushi 1f363 cookie 1f36a cake 1f370 candy 1f36c lollipop 1f36d coffee 2615 teapot 1fad6
        cocktail 1f378 peanut 1f95c steak 1f969 salad 1f957""",
    "vehicle": """
        car 1f697 bus 1f68c ambulance 1f691 truck 1f69a tractor 1f69c motorcycle 1f3cd
        bicycle 1f6b2 train 1f682 rocket 1f680 helicopter 1f681 airplane 2708 ship 1f6a2
        sailboat 26f5 canoe 1f6f6 skateboard 1f6f9 scooter 1f6f4""",
    "plant": """
        tree 1f333 cactus 1f335 tulip 1f337 rose 1f339 palm 1f334 clover 1f340 sunflower 1f33b""",
    "clothing": """
        hat 1f3a9 cap 1f9e2 crown 1f451 shirt 1f455 dress 1f457 coat 1f9e5 sock 1f9e6
        shoe 1f45f boot 1f462 handbag 1f45c backpack 1f392 necktie 1f454 ring 1f48d""",
    "furniture": """
        chair 1fa91 couch 1f6cb bed 1f6cf toilet 1f6bd bathtub 1f6c1 door 1f6aa window 1fa9f
        mirror 1fa9e ladder 1fa9c""",
    "instrument": """
        guitar 1f3b8 violin 1f3bb trumpet 1f3ba saxophone 1f3b7 drum 1f941 piano 1f3b9
        accordion 1fa97""",
    "tool": """
        hammer 1f528 axe 1fa93 wrench 1f527 screwdriver 1fa9b saw 1fa9a magnet 1f9f2 broom 1f9f9
        bucket 1faa3 toothbrush 1faa5 plunger 1faa0 razor 1fa92 microscope 1f52c telescope 1f52d
        pencil 270f crayon 1f58d paperclip 1f4ce pushpin 1f4cc ruler 1f4cf toolbox 1f9f0""",
    "object": """
        house 1f3e0 castle 1f3f0 church 26ea tent 26fa fountain 26f2 rainbow 1f308 cloud 2601
        snowman 26c4 snowflake 2744 star 2b50 moon 1f319 umbrella 2602 balloon 1f388 gift 1f381
        kite 1fa81 trophy 1f3c6 basketball 1f3c0 baseball 26be microphone 1f3a4 camera 1f4f7
        television 1f4fa radio 1f4fb telephone 260e laptop 1f4bb battery 1f50b flashlight 1f526
        lightbulb 1f4a1 candle 1f56f lantern 1f3ee book 1f4d5 newspaper 1f4f0 envelope 2709
        padlock 1f512 clock 23f0 hourglass 23f3 pill 1f48a bandage 1fa79 suitcase 1f9f3
        briefcase 1f4bc diamond 1f48e lipstick 1f484 coin 1fa99 bomb 1f4a3 bell 1f514
        compass 1f9ed globe 1f30d shield 1f6e1 feather 1fab6 package 1f4e6 calendar 1f4c5
        joystick 1f579 target 1f3af puzzle 1f9e9 vase 1f3fa anchor 2693 parachute 1fa82""",
}

_COLOURABLE = """
    cat dog rabbit frog horse bird duck butterfly fish mouse car bus truck motorcycle bicycle
    scooter rocket helicopter airplane ship hat cap shirt dress coat sock shoe boot handbag
    backpack necktie chair couch bed door guitar drum bucket house umbrella balloon kite telephone
    book bell suitcase crayon candle teapot tulip rose star circle square triangle heart
    """

COLOURABLE = frozenset(_COLOURABLE.split())
"""Kinds that come in colours, so that a colour word about them means something."""

PRINTED = frozenset({"calendar", "newspaper"})
"""Kinds with print on them, which is never mirrored."""

_SYNONYMS = """
    cat kitten dog puppy mouse rodent rabbit bunny fox vixen pig swine frog toad horse pony
    chicken hen duck mallard bee wasp turtle tortoise snake serpent lizard gecko
    squid calamari lobster crawdad dolphin porpoise crocodile alligator camel dromedary sheep lamb
    goat billy parrot macaw dinosaur raptor squirrel chipmunk gorilla silverback mosquito gnat
    orange tangerine peach nectarine eggplant aubergine corn maize potato spud mushroom fungus
    bread loaf donut doughnut hamburger burger candy toffee cookie biscuit cake gateau
    coffee espresso cocktail martini salad lettuce pizza margherita sandwich toast
    car automobile bus coach truck lorry motorcycle motorbike rocket missile helicopter chopper
    airplane jet ship vessel sailboat yacht canoe kayak train locomotive ambulance paramedic
    tree oak cactus succulent clover shamrock hat fedora crown tiara shirt jersey dress gown
    coat jacket sock stocking shoe sneaker boot wellington handbag purse backpack rucksack
    necktie cravat chair seat couch sofa bed bunk toilet lavatory bathtub jacuzzi
    guitar banjo violin fiddle trumpet bugle piano keyboard drum bongo axe tomahawk wrench spanner
    broom besom bucket pail pushpin thumbtack razor shaver pencil biro house cottage
    castle fortress church basilica tent marquee moon crescent umbrella parasol gift present
    trophy award television telly laptop computer flashlight torch lantern lamp
    book novel newspaper gazette envelope letter padlock latch clock timepiece pill tablet
    bandage plaster suitcase luggage briefcase portfolio diamond gem bomb explosive feather plume
    package parcel calendar planner joystick controller target bullseye vase urn coin penny
    lipstick rouge hourglass sandglass shield buckler globe planet bell chime kite glider"""

SYNONYMS: Mapping[str, str] = MappingProxyType(
    dict(zip(_SYNONYMS.split()[1::2], _SYNONYMS.split()[::2], strict=True))
)
"""Another name to the kind that it means; it is no name of another kind, nor part of one."""

SIGN = "sign"
"""The kind of a plate with a printed word."""

_PLURALS = {
    "mouse": "mice",
    "wolf": "wolves",
    "fish": "fish",
    "sheep": "sheep",
    "scarf": "scarves",
    "tooth": "teeth",
    "squid": "squid",
    "leaf": "leaves",
    "knife": "knives",
    "person": "people",
    "man": "men",
    "woman": "women",
    "child": "children",
}


def _table() -> dict[str, tuple[str, str]]:
    table: dict[str, tuple[str, str]] = {}
    for category, pairs in _BY_CATEGORY.items():
        words = pairs.split()
        for name, code in zip(words[::2], words[1::2], strict=True):
            table[name] = (category, code)
    return table


KINDS: Mapping[str, tuple[str, str]] = MappingProxyType(_table())
"""Name to category and code point (hexadecimal, lower case, without variation selector)."""


def syllables(rng: np.random.Generator) -> str:
    """Eight letters that can be spoken: ``bodikufa``."""
    pairs = zip(rng.integers(17, size=4).tolist(), rng.integers(5, size=4).tolist(), strict=True)
    return "".join("bdfghjklmnprstvwz"[first] + "aeiou"[second] for first, second in pairs)


@lru_cache(maxsize=1024)
def coined(kind: str) -> str:
    """A word made up for a kind, always the same: ``otter`` -> ``fomi``."""
    return syllables(np.random.default_rng(zlib.crc32(kind.encode())))[:6]


@lru_cache(maxsize=1024)
def kind_of(name: str) -> str:
    """The kind that a name means, whether its own, another, or one made up for it."""
    words = {**{coined(kind): kind for kind in KINDS}, **SYNONYMS}
    return name if name in KINDS else words.get(name, name)


def plural(name: str) -> str:
    """More than one of it: ``cherry`` -> ``cherries``, ``mouse`` -> ``mice``."""
    if name in _PLURALS:
        return _PLURALS[name]
    if name.endswith(("s", "x", "ch", "sh")):
        return name + "es"
    if name.endswith("o") and name in {"tomato", "potato", "mango", "mosquito", "buffalo"}:
        return name + "es"
    if name.endswith("y") and name[-2:-1] not in set("aeiou"):
        return name[:-1] + "ies"
    return name + "s"


def with_article(words: str) -> str:
    """``apple`` -> ``an apple``."""
    article = "an" if words[0].lower() in "aeiou" and not words.startswith(("uni", "ufo")) else "a"
    return f"{article} {words}"
