"""French text as it is said: what may be written in several ways and sounds the same becomes one."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from qat_plugin.evaluation.french_numbers import spell_numbers

_CHARACTERS = str.maketrans(
    {
        **dict.fromkeys("’ʼ‘‛′`´＇", "'"),
        **dict.fromkeys("‐‑‒–—―", "-"),  # not the minus sign, which is read
        "Œ": "OE", "œ": "oe", "Æ": "AE", "æ": "ae", "№": "n°", "º": "°", "ᵉ": "e", "ʳ": "r",
    }
)  # fmt: skip

# What stands behind 'M.' for monsieur: a name, a particle of one, or an office ('M. le maire').
_NAMED = r"(?=[^\W\d_a-zà-ÿ]|(?:de|du|des|le|la|les) |[dl]'|(?:et|ou) M(?:me|lle|M?\.|gr))"

# Abbreviations whose capitals tell them from other words, and those that are none in any case.
_ABBREVIATIONS = [
    (re.compile(pattern), words)
    for pattern, words in (
        # not the last of 'A. M. Dupont'
        (rf"(?<![\w.'])(?<!\b\w\. )M\. {_NAMED}", "monsieur "),
        (rf"(?<![\w.'])MM\. ?{_NAMED}", "messieurs "),
        (r"\b(?:[Aa]v\.|[Aa]vant) ?J\.?[- ]?C\b\.?", "avant Jésus-Christ "),
        (r"\b(?:[Aa]pr?\.|[Aa]près) ?J\.?[- ]?C\b\.?", "après Jésus-Christ "),
        (r"\bM(?:r|R)\b\.?", "monsieur"),
        (r"\b[Mm]me\b\.?", "madame"),
        (r"\b[Mm]mes\b\.?", "mesdames"),
        (r"\b[Mm]lle\b\.?", "mademoiselle"),
        (r"\b[Mm]lles\b\.?", "mesdemoiselles"),
        (r"\b[Mm]gr\b\.?", "monseigneur"),
        (r"\bDr\b\.?", "docteur"),
        (r"\bPr\b\.?", "professeur"),
        (r"\bSt\b\.?", "saint"),
        (r"\bSte\b\.?", "sainte"),
        (r"\bSts\b\.?", "saints"),
        (r"\bStes\b\.?", "saintes"),
        (r"\b[Nn]° ?s\b", "numéros"),
        (r"\b[Nn]°s?", "numéro "),
        (r"&", " et "),
        # S.N.C.F. is SNCF, l'O.N.U. is l'ONU
        (r"(?<![\w.])(?:[^\W\d_]\.){2,}(?![^\W\d_])", lambda found: found[0].replace(".", "") + " "),
    )
]

# Signs that telephones have, where they stand for themselves.
_KEYS = [(re.compile(r"(?<![\w#*])#(?![\w#*])"), " dièse "), (re.compile(r"(?<![\w#*])\*(?![\w#*])"), " étoile ")]

# Words that lose their vowel before another: the apostrophe stays with them. Any other apostrophe within a word
# (aujourd'hui, prud'homme, p'tit) is a letter of that word.
_ELIDED_WORDS = (
    "l", "d", "j", "m", "t", "s", "n", "c", "ç", "qu", "jusqu", "lorsqu", "puisqu", "quoiqu", "quelqu", "presqu",
)  # fmt: skip
_ELIDED = re.compile(rf"(?:{'|'.join(_ELIDED_WORDS)})'(?=.)")

_SPELLINGS = [
    (re.compile(rf"(?<!\S){pattern}(?!\S)"), word)
    for pattern, word in (
        ("(?:etc|et caetera)", "et cetera"),
        ("pourcent", "pour cent"),
        ("kilo(s?)", r"kilogramme\1"),
        ("(kilomètres?) (?:à l'|par) heure", r"\1 heure"),
        # In number words, the s that only spelling hears.
        ("(vingt|cent)s", r"\1"),
        ("mil(?= (?:(?:deux|trois|quatre|cinq|six|sept|huit|neuf) )?cent(?!\\S))", "mille"),
    )
]

# Years as hundreds: 'dix neuf cent dix' is 'mille neuf cent dix'. With nothing behind, 'dix neuf cent' may be a sum.
_HUNDREDS = {
    "onze": "", "douze": "deux ", "treize": "trois ", "quatorze": "quatre ", "quinze": "cinq ", "seize": "six ",
    "dix sept": "sept ", "dix huit": "huit ", "dix neuf": "neuf ",
}  # fmt: skip
_SMALL_NUMBER = (
    r"(?:un|deux|trois|quatre|cinq|six|sept|huit|neuf|dix|onze|douze|treize|quatorze|quinze|seize|vingt|trente|quarante|"
    r"cinquante|soixante)(?!\S)"
)
_YEAR = re.compile(rf"(?<!\S)(?<!vingt )(?<!soixante )({'|'.join(_HUNDREDS)}) cent (?={_SMALL_NUMBER})")


def normalize_french(text: str) -> str:
    """`text` as single words in lower case, parted by single spaces; the same again when applied again.

    - Figures become words as they are read: whole numbers, decimals, amounts of money, per cent, times, ordinals, Roman
      numerals, units, telephone numbers pair by pair. 'vingt' and 'cent' have no plural, and the
      year 'dix-neuf cent dix' is 'mille neuf cent dix'.
    - Elided words keep their apostrophe and part from the next: "l'eau" is "l' eau"; "aujourd'hui" is one word.
      Typographic apostrophes are straight ones.
    - œ and æ are oe and ae; accents stay.
    - Titles and abbreviations are spelled out: M., Mme, Mlle, Dr, St, n°, av. J.-C., etc., &.
    - A kilo is a kilogramme, and kilometres 'à l'heure' or 'par heure' are 'kilomètres heure'.
    - Hyphens and all other punctuation part words. What brackets hold stays: a reader sees it, too.

    Nothing is guessed from a text's meaning: '1 pomme' is 'un pomme', '10-12' is 'dix douze'.
    """
    text = _plain_characters(text)
    for pattern, words in _ABBREVIATIONS:
        text = pattern.sub(words, text)
    text = spell_numbers(text)
    for pattern, word in _KEYS:
        text = pattern.sub(word, text)
    text = text.lower().translate(_CHARACTERS)
    text = " ".join(_words("".join(char if char == "'" or _is_letter(char) else " " for char in text)))
    for pattern, word in _SPELLINGS:
        text = pattern.sub(word, text)
    return _YEAR.sub(lambda found: f"mille {_HUNDREDS[found[1]]}cent ", text)


def _words(text: str) -> Iterator[str]:
    """Words of letters and apostrophes, without the apostrophes that are quotation marks."""
    text = re.sub(r"(?<!\S)'", "", re.sub(r"'+", "'", text))
    for word in text.split():
        while elided := _ELIDED.match(word):
            yield elided[0]
            word = word[elided.end() :]
        bare = word.rstrip("'")
        if bare:
            yield word if bare in _ELIDED_WORDS else bare


def _plain_characters(text: str) -> str:
    """Composed letters, straight apostrophes, plain hyphens, plain spaces, ASCII digits."""
    text = unicodedata.normalize("NFC", text).translate(_CHARACTERS)
    return "".join(
        str(unicodedata.decimal(char)) if char.isdecimal() else " " if char.isspace() else char for char in text
    )


def _is_letter(char: str) -> bool:
    # Marks, too: not every letter with an accent has a composed form.
    return unicodedata.category(char)[0] in "LM" or char.isnumeric()
