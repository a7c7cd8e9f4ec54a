"""Figures in French text as the words that are said for them: amounts, times, ordinals, telephone numbers, units.

num2words knows the names of whole numbers; what French makes of the signs around them is here.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable

from num2words import num2words

_Found = re.Match[str]

_MOST_DIGITS = 12  # longer ones are card and account numbers, read digit by digit

# sign → (one, several)
_UNITS = {
    "km/h": ("kilomètre heure", "kilomètres heure"),
    "km²": ("kilomètre carré", "kilomètres carrés"),
    "m²": ("mètre carré", "mètres carrés"),
    "m³": ("mètre cube", "mètres cubes"),
    "km": ("kilomètre", "kilomètres"),
    "cm": ("centimètre", "centimètres"),
    "mm": ("millimètre", "millimètres"),
    "m": ("mètre", "mètres"),
    "kg": ("kilogramme", "kilogrammes"),
    "mg": ("milligramme", "milligrammes"),
    "g": ("gramme", "grammes"),
    "cl": ("centilitre", "centilitres"),
    "ml": ("millilitre", "millilitres"),
    "l": ("litre", "litres"),
    "ha": ("hectare", "hectares"),
    "t": ("tonne", "tonnes"),
    "min": ("minute", "minutes"),
    "mn": ("minute", "minutes"),
    "s": ("seconde", "secondes"),
    "°C": ("degré celsius", "degrés celsius"),
    "°": ("degré", "degrés"),
    "%": ("pour cent", "pour cent"),
    "‰": ("pour mille", "pour mille"),
}
# sign → (one, several, a hundredth, hundredths)
_CURRENCIES = {
    "€": ("euro", "euros", "centime", "centimes"),
    "$": ("dollar", "dollars", "cent", "cents"),
    "£": ("livre", "livres", "penny", "pence"),
}
# Nouns behind which 1 is 'une': those that often stand behind figures.
_FEMININE = (
    "heure",
    "minute",
    "seconde",
    "fois",
    "année",
    "semaine",
    "journée",
    "personne",
    "page",
    "livre",
    "ligne",
    "pièce",
    "tonne",
)
# Signs that stand without a number.
_SIGNS = {
    "%": "pour cent", "‰": "pour mille", "€": "euros", "$": "dollars", "£": "livres", "°": "degrés", "=": "égale", "+": "plus",
    "×": "fois", "½": "un demi", "¼": "un quart", "¾": "trois quarts", "²": "carré", "³": "cube", "@": "arobase",
}  # fmt: skip
_ROMAN = {"I": 1, "V": 5, "X": 10}


def spell_numbers(text: str) -> str:
    """`text` with its figures, and the signs that belong to them, in words; the rest stays as it is.

    Takes straight apostrophes, plain spaces, ASCII digits, and capitals as they were written: they tell Roman numerals
    from words, and 3 m from 3 M. What is put in stands between spaces.
    """
    for pattern, replace in _RULES:
        text = pattern.sub(replace, text)
    return text


@functools.lru_cache(maxsize=10_000)
def cardinal(number: int, *, feminine: bool = False) -> str:
    """The name of a whole number, its hyphens as spaces: 80 is 'quatre vingts', 21 'vingt et un', feminine 'vingt et une'."""
    name = str(num2words(number, lang="fr")).replace("-", " ")
    return re.sub(r"\bun$", "une", name) if feminine else name


@functools.lru_cache(maxsize=1000)
def ordinal(number: int) -> str:
    """'premier', 'deuxième', 'quatre vingtième'."""
    name = str(num2words(number, lang="fr", to="ordinal")).replace("-", " ")
    # num2words leaves the plural's s in 80th and 2 000 000th, and says 'un millionième'.
    return re.sub(r"^un (?=milli)", "", re.sub(r"(vingt|cent|milli(?:on|ard))sième$", r"\1ième", name))


def _digits(text: str) -> str:
    return " ".join(cardinal(int(digit)) for digit in text)


def _plain(number: str) -> str:
    return re.sub(r"\D", "", number)


def _whole(number: str, *, feminine: bool = False) -> str:
    """A number as it is read: zeros in front one by one."""
    plain = _plain(number)
    if len(plain) > _MOST_DIGITS:
        return _digits(plain)
    rest = plain.lstrip("0")
    words = ["zéro"] * (len(plain) - len(rest))
    return " ".join([*words, cardinal(int(rest), feminine=feminine)] if rest else words)


def _value(found: _Found, *, feminine: bool = False) -> str:
    """A number with its decimals, which are read as a number up to three digits, and more of them one by one."""
    decimals = found["decimals"]
    if decimals is None:
        return _whole(found["whole"], feminine=feminine)
    return f"{_whole(found['whole'])} virgule {_whole(decimals) if len(decimals) <= 3 else _digits(decimals)}"


def _cardinal(found: _Found) -> str:
    return f" {_value(found)} "


def _feminine(found: _Found) -> str:
    return f" {_value(found, feminine=True)} "


def _point(found: _Found) -> str:
    return f" {_whole(found[1])} point {_whole(found[2])} "


def _list(found: _Found) -> str:
    # Three digits behind each comma: thousands as English parts them. Anything else is a list without spaces.
    groups = found[0].split(",")
    return "".join(groups) if all(len(group) == 3 for group in groups[1:]) else " ".join(groups)


def _telephone(found: _Found) -> str:
    numbers = _plain(found["pairs"])
    pairs = [_whole(numbers[i : i + 2]) for i in range(0, len(numbers), 2)]
    return f" {' '.join(pairs)} "


def _telephone_abroad(found: _Found) -> str:
    return f" plus {cardinal(int(found['country']))} {cardinal(int(found['first']))} {_telephone(found)}"


def _telephone_of_services(found: _Found) -> str:
    digits = _plain(found[0])
    groups = [digits[:1], *(digits[at : at + 3] for at in (1, 4, 7))]
    return f" {' '.join(map(_whole, groups))} "


def _digit_by_digit(found: _Found) -> str:
    return f" {_digits(_plain(found[0]))} "


def _money(found: _Found) -> str:
    one, several, hundredth, hundredths = _CURRENCIES[found["currency"]]
    whole, behind = int(_plain(found["whole"])), found["decimals"] or found["behind"] or ""
    if len(behind) > 2:
        return f" {_value(found)} {several if whole > 1 else one} "
    rest = int(behind.ljust(2, "0")) if behind else 0
    parts = []
    if whole or not rest:
        # 'deux millions d'euros', but 'deux millions cinq cent mille euros'
        amount = several if whole > 1 else one
        named = amount if whole == 0 or whole % 1_000_000 else _of(amount)
        parts.append(f"{_whole(found['whole'], feminine=one in _FEMININE)} {named}")
    if rest:
        # 'cinq euros cinquante', and without euros 'cinquante centimes'
        parts.append(cardinal(rest) if whole else f"{cardinal(rest)} {hundredths if rest > 1 else hundredth}")
    return f" {' '.join(parts)} "


def _of(currency: str) -> str:
    return f"d'{currency}" if currency.startswith("e") else f"de {currency}"


def _large_money(found: _Found) -> str:
    _, several, _, _ = _CURRENCIES[found["currency"]]
    return f" {found['count']} {_of(several)} "


def _time(found: _Found) -> str:
    hours, minutes = int(found["hours"]), int(found["minutes"] or 0)
    words = [cardinal(hours, feminine=True), "heures" if hours > 1 else "heure"]
    return f" {' '.join([*words, cardinal(minutes, feminine=True)] if minutes else words)} "


def _duration(found: _Found) -> str:
    minutes = int(found["minutes"])
    return f" {_time(found)} {'minutes' if minutes > 1 else 'minute' if minutes else ''} "


def _ordinal(found: _Found) -> str:
    return f" {ordinal(int(found['number']))}{found['plural']} "


def _first(found: _Found) -> str:
    return f" {'premier' if found['ending'] == 'er' else 'première'}{found['plural']} "


def _second(found: _Found) -> str:
    return f" {'second' if found['ending'] == 'nd' else 'seconde'}{found['plural']} "


def _roman_value(numeral: str) -> int:
    values = [_ROMAN[letter] for letter in numeral]
    return sum(-v if v < after else v for v, after in zip(values, [*values[1:], 0], strict=True))


def _roman_ordinal(found: _Found) -> str:
    return f" {ordinal(_roman_value(found['roman']))} "


def _roman(found: _Found) -> str:
    return f" {cardinal(_roman_value(found[0]))} "


def _unit(found: _Found) -> str:
    one, several = _UNITS[found["unit"]]
    return f" {_value(found, feminine=one in _FEMININE)} {several if int(_plain(found['whole'])) > 1 else one} "


def _sign(found: _Found) -> str:
    return f" {_SIGNS[found[0]]} "


# A whole number, its thousands perhaps parted by spaces or points, and perhaps decimals behind a comma.
_NUMBER = r"(?<![\d.,])(?P<whole>[1-9]\d{0,2}(?:[ .]\d{3})+|\d+)(?:,(?P<decimals>\d+))?(?!\d|[.,]\d)"
_UNIT_SIGNS = "|".join(sorted(map(re.escape, _UNITS), key=len, reverse=True))
_ROMAN_NUMERAL = r"(?=[IVX])X{0,3}(?:IX|IV|V?I{0,3})"

# In this order: what has a form of its own before what is any number.
_RULES: list[tuple[re.Pattern[str], Callable[[_Found], str]]] = [
    (re.compile(pattern), replace)
    for pattern, replace in (
        # 06 12 34 56 78, 0612345678; +33 6 12 34 56 78; 514-555-1234, (514) 555-1234
        (r"(?<![\w.,+])(?P<pairs>0[1-9](?:[ .-]?\d\d){4})(?!\d|[.,]\d)", _telephone),
        (
            r"(?<!\w)\+(?P<country>\d\d) ?(?:\(0\) ?)?(?P<first>[1-9])(?P<pairs>(?:[ .-]?\d\d){4})(?!\d)",
            _telephone_abroad,
        ),
        # 0 800 123 456, 0800 123 456
        (r"(?<![\w.,+])0 ?8\d\d(?:[ .]\d{3}){2}(?!\d|[.,]\d)", _telephone_of_services),
        (r"(?<![\w.,-])(?:1[ -])?(?:\(\d{3}\) ?|\d{3}[.-])\d{3}[.-]\d{4}(?![\d-])", _digit_by_digit),
        (r"(?<![\d.,])\d+(?:,\d+){2,}(?!\d)", _list),
        # -5 °C, not F-22 nor 12 -6
        (r"(?:^|(?<=\s))(?<!\d )[-−](?=\d)", lambda _: " moins "),
        # 5.50 € is 5,50 €
        (r"(?<![\d.,])(\d+)\.(\d\d)(?= ?[€$£])", lambda found: f"{found[1]},{found[2]}"),
        # 5,50 euros is 5,50 €
        (r"(?<![\d.,])(\d+),(\d\d) ?euros?\b", lambda found: f"{found[1]},{found[2]} €"),
        # 5 €, 5,50 €, 5€50; $5
        (rf"{_NUMBER} ?(?P<currency>[€$£])(?P<behind>\d\d(?!\d))?", _money),
        (rf"(?P<currency>[€$£]) ?{_NUMBER}(?P<behind>)", _money),
        # 2,5 milliards €
        (r"\b(?P<count>(?:million|milliard)s?) ?(?P<currency>[€$£])", _large_money),
        # 10 h 30 min; 14h30, 14 h 30; 14h; 14:30
        (r"(?<![\w.,:])(?P<hours>\d{1,3}) ?h ?(?P<minutes>[0-5]?\d) ?(?:min|mn)(?![\w:])", _duration),
        (r"(?<![\w.,:])(?P<hours>\d{1,2}) ?[hH] ?(?P<minutes>[0-5]\d)(?![\w:])", _time),
        (r"(?<![\w.,:])(?P<hours>\d{1,3}) ?h(?P<minutes>)(?![\w:'])", _time),
        (r"(?<![\w.,:])(?P<hours>[01]?\d|2[0-4]):(?P<minutes>[0-5]\d)(?![\w:])", _time),
        # 1er, 1re; 2nd; 2e, 2ème
        (r"(?<![\d.,])1 ?(?P<ending>er|re|ère|ere)(?P<plural>s?)(?!\w)", _first),
        (r"(?<![\d.,])2 ?(?P<ending>nde|nd)(?P<plural>s?)(?!\w)", _second),
        (r"(?<![\d.,])(?P<number>[1-9]\d{0,5})(?:e|è| ?[eè]me)(?P<plural>s?)(?!\w)", _ordinal),
        # François Ier; XIXe; Louis XIV, where one letter would be a letter
        (r"(?<!\w)I(?P<ending>er|re|ère)(?P<plural>)(?!\w)", _first),
        (rf"(?<!\w)(?!I[eè])(?P<roman>{_ROMAN_NUMERAL})(?:e|è|[eè]me)(?!\w)", _roman_ordinal),
        (rf"(?<![\w'.-])(?=[IVX]{{2}}){_ROMAN_NUMERAL}(?![\w'-])", _roman),
        # 1m80
        (r"(?<![\w.,])(\d{1,2})m(\d\d)(?!\w)", lambda found: f"{found[1]} m {found[2]}"),
        (rf"{_NUMBER} ?(?P<unit>{_UNIT_SIGNS})(?![\w/²³'])", _unit),
        (rf"{_NUMBER}(?= (?:{'|'.join(_FEMININE)})s?\b)", _feminine),
        (_NUMBER, _cardinal),
        (r"(?<![\d.,])(\d+)\.(\d+)(?!\d|[.,]\d)", _point),
        # what is left: parts of dates, versions, sports results
        (r"(?P<whole>\d+)(?P<decimals>(?!))?", _cardinal),
        ("|".join(map(re.escape, _SIGNS)), _sign),
    )
]
